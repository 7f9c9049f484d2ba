"""Weights in a gs.Graph that stay where they are until a script asks for their numbers.

gs holds a weight as `LazyValues`, which it turns into an array when `.values` is read. These ones
read from our storage, and know the tensor they stand for: one that was not touched needs no copy.
"""

from typing import Any

import numpy as np
from onnx import SparseTensorProto, TensorProto
from onnx_graphsurgeon.importers.onnx_importer import get_onnx_tensor_dtype
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnx_compress.ir.graph import tensors
from onnx_compress.ir.graph.elements import Array, Tensor, count, dims, element_type, np_dtype
from onnx_compress.ir.graph.storage import Storage, shell
from onnx_compress.ir.graph.wire import reference


class Stored(LazyValues):  # type: ignore[misc]
    """The numbers of `origin`, which are in `storage`; never changed."""

    def __init__(self, origin: Tensor, storage: Storage) -> None:
        self.origin, self.storage = origin, storage
        self.shape = list(origin.dims)
        self.dtype = get_onnx_tensor_dtype(origin)
        self.nbytes = count(dims(origin)) * np_dtype(element_type(origin)).itemsize

    @property
    def tensor(self) -> Tensor:
        """A copy with the data in it, for gs's own exporter, which writes into what it gets."""
        return whole(self.origin, self.storage)

    def load(self) -> Array:
        """The numbers, as an array of its own."""
        return np.array(to_array(self.origin, self.storage))

    def __deepcopy__(self, _: dict[int, Any]) -> "Stored":
        return self  # it never changes, and a storage cannot be copied


class StoredSparse(Stored, SparseValues):  # type: ignore[misc]
    """The numbers of a sparse tensor."""


def stored(tensor: Tensor, storage: Storage) -> Stored:
    """What gs is to hold instead of the numbers of a tensor."""
    kind = StoredSparse if isinstance(tensor, SparseTensorProto) else Stored
    return kind(tensor, storage)


def whole(tensor: Tensor, storage: Storage) -> Tensor:
    """A copy of a tensor with its data in it."""
    if isinstance(tensor, TensorProto) and tensor.data_location == TensorProto.EXTERNAL:
        out = shell(tensor, None)
        out.raw_data = storage.read(reference(tensor)).tobytes()
        return out
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    return copy


def to_array(tensor: Tensor, storage: Storage) -> Array:
    """As `tensors.to_array`, but strings that are not UTF-8 are read too."""
    if isinstance(tensor, TensorProto) and tensor.data_type == TensorProto.STRING:
        texts = [text.decode("utf-8", "surrogateescape") for text in tensor.string_data]
        return np.array([*texts, None], object)[:-1].reshape(dims(tensor))
    return tensors.to_array(tensor, storage)


def written(constant: Any, original: Tensor | None, storage: Storage) -> Tensor:
    """The tensor of a gs.Constant, to be named; `original` itself if the numbers are the same."""
    values = constant._values  # `.values` would load it
    if isinstance(values, Stored) and values.storage is storage:
        return values.origin
    if isinstance(values, LazyValues):
        found: Tensor = values.tensor
        if isinstance(found, SparseTensorProto):
            return original if original is not None and original == found else found
        inside = found.data_location != TensorProto.EXTERNAL
        if inside and original and holds(original, to_array(found, storage), storage):
            return original
        return storage.adopt(found, None) or found
    if not hasattr(values, "dtype"):
        raise TypeError(f"the values of {constant.name!r} are {type(values).__name__}, no array")
    array = np.asarray(values)
    if original is not None and holds(original, array, storage):
        return original
    if array.dtype.kind in "OUS":
        return _strings(array)
    return tensors.from_array(array, storage, original)


def _strings(array: Array) -> TensorProto:
    out = TensorProto(data_type=TensorProto.STRING, dims=array.shape)
    for text in array.reshape(-1).tolist():
        out.string_data.append(
            text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        )
    return out


def holds(tensor: Tensor, array: Array, storage: Storage) -> bool:
    """Whether a tensor has just these numbers, bit by bit, in this type and shape."""
    if array.shape != dims(tensor):
        return False
    if element_type(tensor) == TensorProto.STRING:
        if array.dtype.kind not in "OUS" or isinstance(tensor, SparseTensorProto):
            return False
        return list(_strings(array).string_data) == list(tensor.string_data)
    if array.dtype != np_dtype(element_type(tensor)):
        return False
    rows = np.atleast_1d(array)
    parts = tensors.slices(tensor, storage)
    return all(rows[place].tobytes() == np.asarray(part).tobytes() for place, part in parts)
