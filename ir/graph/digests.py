"""SHA-256 of stored tensors: kept in a file's metadata, they tell what was changed afterwards.

    metadata_props["onnx_compress.sha256"] = {"/encoder/w": "n4bQgYhM...", "": "47DEQ... n4b"}

in base64 without padding. Each tensor of a kilobyte or more has its own, over `TYPE d0,d1,...` and
a line feed, then its little-endian bytes as in `raw_data` (each string behind its
length in eight bytes; of a sparse tensor values, then indices). All smaller ones together have one,
under the empty name, and behind a space the first three characters of each one's own, in the order
of their names: enough to tell which it was. Tensors in bodies are called node/attribute/name, those
of functions domain:function:overload/name.
"""

import base64
import hashlib
import json
from collections.abc import Iterator

from onnx import SparseTensorProto, TensorProto, numpy_helper

from onnx_compress.ir.graph import elements, tensors
from onnx_compress.ir.graph.document import Document
from onnx_compress.ir.graph.elements import Tensor
from onnx_compress.ir.graph.export import chunks, pieces
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.view import Graph
from onnx_compress.ir.graph.wire import reference

KEY = "onnx_compress.sha256"
_NAMED = 1024  # bytes of a tensor that has a digest of its own
_MARK = 3  # characters of the digest of a smaller one


def digest(tensor: Tensor, storage: Storage) -> str:
    """Of one tensor. Large ones are read in bounded pieces."""
    kind = elements.type_name(elements.element_type(tensor))
    found = hashlib.sha256(f"{kind} {','.join(map(str, tensor.dims))}\n".encode())
    for chunk in _chunks(tensor, storage):
        found.update(chunk)
    return _text(found.digest())


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode().rstrip("=")


def _chunks(tensor: Tensor, storage: Storage) -> Iterator[bytes | memoryview]:
    if isinstance(tensor, SparseTensorProto):
        for part in (tensor.values, tensor.indices):
            yield from _chunks(part, storage)
    elif tensor.data_location == TensorProto.EXTERNAL:
        yield from (data.data for data in storage.stream(reference(tensor)))
    elif tensor.data_type == TensorProto.STRING:
        for text in tensor.string_data:
            yield len(text).to_bytes(8, "little") + text
    else:  # whichever field it is in
        yield numpy_helper.from_array(tensors.to_array(tensor, storage)).raw_data


def digests(model: Document) -> dict[str, str]:
    """Of all tensors of a model."""
    return _written(*_apart(model))


def _written(found: dict[str, str], small: list[tuple[str, str]]) -> dict[str, str]:
    lines = "".join(f"{name}\n{text}\n" for name, text in small)
    marks = "".join(text[:_MARK] for _, text in small)
    return {**found, "": f"{_text(hashlib.sha256(lines.encode()).digest())} {marks}"}


def _apart(model: Document) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Those of tensors that have one of their own in a file, and those of the others by name."""
    found: dict[str, str] = {}
    small: list[tuple[str, str]] = []
    stored = list(_stored(model, model.graph, ""))
    for function in model.functions:
        shell = function.proto
        path = f"{shell.domain}:{shell.name}:{shell.overload}/"
        stored += _stored(model, function, path)
    for name, tensor in sorted(stored, key=lambda entry: entry[0]):
        text = digest(tensor, model.storage)
        if elements.nbytes(tensor) >= _NAMED:
            found[name] = text
        else:
            small.append((name, text))
    return found, small


def whole(model: Document) -> str:
    """One digest, in hex, of all that a model is: of its file as it would be written."""
    found = hashlib.sha256()
    for chunk in chunks(pieces(model.skeleton()), model.storage):
        found.update(chunk)
    return found.hexdigest()


def _stored(model: Document, graph: Graph, path: str) -> Iterator[tuple[str, Tensor]]:
    yield from ((path + value.name, tensor) for value, tensor in model.stored(graph))
    for node in graph.nodes:
        for attribute, body in node.bodies:
            yield from _stored(model, body, f"{path}{node.name}/{attribute}/")


def stamp(model: Model) -> None:
    """Write the digests of all tensors into the metadata of a model."""
    model.set_metadata(KEY, json.dumps(digests(model), separators=(",", ":"), sort_keys=True))


def changed(model: Document) -> list[str]:
    """Names of the tensors that are not as they were when the model was stamped; [] if it is not.

    Those that are missing and those that are new are among them; "" where small ones are others.
    """
    props = {entry.key: entry.value for entry in model.shell.metadata_props}
    try:
        known = json.loads(props.get(KEY, "{}"))
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        return [KEY]
    if not known:
        return []
    found, small = _apart(model)
    now = _written(found, small)
    names = {name for name in {*known, *now} if known.get(name) != now.get(name)}
    if "" in names:
        called = [name for name, _ in small]
        names = names - {""} | _changed_small(str(known.get("", "")), now[""], called)
    return sorted(names)


def _changed_small(known: str, now: str, names: list[str]) -> set[str]:
    """Which of the small ones, `names`, it was; "" where their marks do not tell."""
    (sure, _, before), (same, _, after) = known.partition(" "), now.partition(" ")
    if sure == same:  # a file that has no marks
        return set()
    if len(before) != len(after):  # one more, or one less
        return {""}
    marks = zip(names, _marks(before), _marks(after), strict=True)
    return {name for name, one, other in marks if one != other} or {""}


def _marks(text: str) -> list[str]:
    return [text[at : at + _MARK] for at in range(0, len(text), _MARK)]
