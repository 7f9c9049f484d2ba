"""Weights in a file of their own: where in it each lies, and how it is written."""

import hashlib
import os
from pathlib import Path

from onnx import ModelProto, TensorProto

from onnx_compress.ir.graph.export import chunks
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.wire import Blob, Piece, refer, reference

_ALIGNMENT = 4096  # of external data, so that a runtime can map it
_MAPPED = 1 << 16  # bytes of a tensor that is worth mapping


def write_beside(model: Model, folder: Path) -> Path:
    """Write a model and its data into a folder that is soon thrown away: not synchronised."""
    proto = model.skeleton()
    path = folder / "model.onnx"
    data = externalise(proto, "model.data")
    write(folder / "model.data", data, model.storage, durable=False)
    write(path, [proto.SerializeToString(deterministic=True)], model.storage, durable=False)
    return path


def write(path: Path, parts: list[Piece], storage: Storage, durable: bool = True) -> str:
    """Write pieces of a new file; if `durable`, to the disk itself. Gives their SHA-256 then."""
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        for chunk in chunks(parts, storage):
            file.write(chunk)
            if durable:
                digest.update(chunk)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    return digest.hexdigest()


def externalise(proto: ModelProto, location: str) -> list[Piece]:
    """Let all shells refer to one file; gives the pieces of that file."""
    data: list[Piece] = []
    at = 0
    for tensor in _shells(proto):
        blob = reference(tensor)
        padding = -at % _ALIGNMENT if blob.length >= _MAPPED else 0
        data += [bytes(padding), blob]
        at += padding
        del tensor.external_data[:]
        refer(tensor, Blob(location, at, blob.length))
        at += blob.length
    return data


def relocate(proto: ModelProto, location: str) -> None:
    """Call the file of all external data otherwise."""
    for tensor in _shells(proto):
        tensor.external_data[0].value = location


def bytes_outside(proto: ModelProto) -> int:
    """Of all shells."""
    return sum(reference(tensor).length for tensor in _shells(proto))


def _shells(proto: ModelProto) -> list[TensorProto]:
    found: list[TensorProto] = []
    todo = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while todo:
        graph = todo.pop(0)
        found += [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
        nodes += graph.node
        while nodes:
            for attribute in nodes.pop(0).attribute:
                tensors = [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
                found += [t for t in tensors if t.data_location == TensorProto.EXTERNAL]
                todo += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    return found
