"""Tensors of onnx-ir as protos of ours that say where the bytes are.

    ExternalTensor                        -> its file, at its offset
    TensorProtoTensor                     -> the caller's proto
    Tensor, PackedTensor, LazyTensor, ... -> the tensor, asked for its numbers when they are read

Small tensors and strings are written out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from onnx import TensorProto

from onnx_compress.ir.errors import CompressError, InvalidError, LoadError, UnsupportedError
from onnx_compress.ir.graph.elements import nbytes
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.storage import THRESHOLD, Bytes, Storage
from onnx_compress.ir.graph.wire import Blob, refer


class Lender:
    """Makes the protos of the tensors of one model, which refer to one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._done: dict[int, tuple[Any, TensorProto]] = {}  # a tensor used twice is kept once
        self._latest: list[tuple[Lent, Bytes]] = []

    def proto(self, tensor: Any) -> TensorProto:
        """The tensor as it is to be written. Raises LoadError, InvalidError, UnsupportedError."""
        if id(tensor) not in self._done:
            try:
                self._done[id(tensor)] = tensor, self._proto(tensor)
            except CompressError:
                raise
            except Exception as error:  # a tensor may be of anybody's class
                raise _unreadable(tensor, error) from error
        return self._done[id(tensor)][1]

    def _proto(self, tensor: Any) -> TensorProto:
        if isinstance(tensor, onnx_ir.TensorProtoTensor):
            # its metadata are those of the object, which may have been edited
            found = self._storage.adopt(tensor.raw, None) or tensor.raw
            out = without(found, {"metadata_props"})
        elif isinstance(tensor, onnx_ir.ExternalTensor):
            out = self._external(tensor)
        elif tensor.dtype == onnx_ir.DataType.STRING or tensor.nbytes < THRESHOLD:
            return onnx_ir.serde.serialize_tensor(tensor)
        else:
            out = _head(tensor)
            lent = Lent(tensor, nbytes(out), self._latest)
            refer(out, Blob(self._storage.keep(lent), 0, nbytes(out)))
        for key in sorted(tensor.metadata_props):
            out.metadata_props.add(key=key, value=tensor.metadata_props[key])
        return out

    def _external(self, tensor: onnx_ir.ExternalTensor) -> TensorProto:
        if not tensor.valid():
            hint = "load the model again"
            raise LoadError("its data file was overwritten", hint, tensor.name)
        out = _head(tensor)
        out.data_location = TensorProto.EXTERNAL
        entries = {"location": tensor.location, "offset": tensor.offset, "length": tensor.length}
        for key, value in entries.items():
            if value is not None:
                out.external_data.add(key=key, value=str(value))
        return self._storage.adopt(out, Path(tensor.base_dir)) or out


class Lent:
    """The bytes of a tensor in memory, read as a file is read.

    A tensor may make its numbers anew whenever it is asked, and a file is read in pieces: of all
    tensors of a model the latest is held.
    """

    def __init__(self, tensor: Any, length: int, latest: "list[tuple[Lent, Bytes]]") -> None:
        self.tensor, self._length, self._latest, self._at = tensor, length, latest, 0

    def seek(self, offset: int) -> None:
        """Where to read next."""
        self._at = offset

    def readinto(self, out: memoryview) -> int:
        """Read as much as fits; gives the number of bytes."""
        found = self.view()[self._at : self._at + len(out)]
        np.frombuffer(out, np.uint8)[: found.size] = found
        self._at += found.size
        return found.size

    def view(self) -> Bytes:
        """All bytes, in the tensor's own memory where it has them as the format wants them."""
        for lent, data in self._latest:
            if lent is self:
                return data
        try:
            data = _bytes(self.tensor)
        except Exception as error:  # a tensor may be of anybody's class
            raise _unreadable(self.tensor, error) from error
        if data.size != self._length:
            what = f"it gives {data.size} bytes where its type and shape take {self._length}"
            raise InvalidError(what, "the code that made the tensor is wrong", self.tensor.name)
        self._latest[:] = [(self, data)]
        return data


def _bytes(tensor: Any) -> Bytes:
    if isinstance(tensor, onnx_ir.LazyTensor):
        return _bytes(tensor.raw())
    if isinstance(tensor, onnx_ir.PackedTensor):
        array = tensor.numpy_packed()
    elif tensor.dtype.bitwidth < 8:
        array = np.frombuffer(tensor.tobytes(), np.uint8)
    else:
        array = tensor.numpy()
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _head(tensor: Any) -> TensorProto:
    out = TensorProto(data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    if tensor.name:
        out.name = tensor.name
    if tensor.doc_string:
        out.doc_string = tensor.doc_string
    return out


def _unreadable(tensor: Any, error: Exception) -> UnsupportedError:
    what = f"the numbers of a {type(tensor).__name__} cannot be read: {error}"
    hint = "give it numbers first; those of torch: ONNXProgram.apply_weights"
    return UnsupportedError(what, hint, str(getattr(tensor, "name", None) or ""))
