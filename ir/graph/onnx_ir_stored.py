"""Weights of ours as tensors of onnx-ir, which read from the storage that holds them.

They are LazyTensors, not ExternalTensors: an ExternalTensor is a path, and is written as one. A
model of them loses its weights when it is saved into another folder or when the file is replaced,
and scratch files have no path. These keep the file open, and are written with their numbers.
"""

import mmap
from typing import BinaryIO

import numpy as np
import onnx_ir
from onnx import TensorProto

from onnx_compress.ir.graph.onnx_ir_lent import Lent
from onnx_compress.ir.graph.storage import Bytes, Storage
from onnx_compress.ir.graph.wire import Blob


class Maps:
    """The files of a storage, mapped once each: into addresses, not into memory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._maps: dict[str, mmap.mmap] = {}

    def view(self, blob: Blob) -> Bytes:
        """The bytes where they are; a copy only of those in a caller's proto."""
        kept = self._storage.file(blob.location)
        if isinstance(kept, Blob):
            return self.view(Blob(kept.location, kept.offset + blob.offset, blob.length))
        if isinstance(kept, TensorProto) or not blob.length:
            return self._storage.read(blob)
        if isinstance(kept, Lent):
            return kept.view()[blob.offset : blob.offset + blob.length]
        return np.frombuffer(self._map(blob, kept), np.uint8, blob.length, blob.offset)

    def _map(self, blob: Blob, file: BinaryIO) -> mmap.mmap:
        found = self._maps.get(blob.location)
        if found is None or len(found) < blob.offset + blob.length:  # scratch grows
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[blob.location] = found
        return found


def stored(shell: onnx_ir.ExternalTensor, maps: Maps) -> onnx_ir.LazyTensor:
    """The tensor that a shell stands for.

    Its `numpy()` is mapped and read-only where the bytes are in a file and no bits are packed.
    """
    blob = Blob(str(shell.location), shell.offset or 0, shell.length or 0)
    dtype, shape = shell.dtype, shell.shape

    def read() -> onnx_ir.TensorProtocol:
        data = maps.view(blob)
        if dtype.bitwidth < 8:
            return onnx_ir.PackedTensor(data, dtype, shape=shape)
        return onnx_ir.Tensor(data.view(dtype.numpy()).reshape(shape.numpy()), dtype)

    return onnx_ir.LazyTensor(
        read,
        dtype,
        shape,
        name=shell.name,
        doc_string=shell.doc_string,
        metadata_props=dict(shell.metadata_props),
    )
