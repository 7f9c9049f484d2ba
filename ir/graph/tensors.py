"""TensorProto to numpy and back, wherever the bytes are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph.storage import PIECE, THRESHOLD, Storage, shell
from onnx_compress.ir.graph.wire import Blob, refer, reference

Array = npt.NDArray[Any]
Tensor = TensorProto | SparseTensorProto

_BEGINNING = 64  # bytes

# bits per element of the types that share bytes
_PACKED = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{getattr(TensorProto, name): 2 for name in ("INT2", "UINT2") if hasattr(TensorProto, name)},
}


def dims(tensor: Tensor) -> tuple[int, ...]:
    """Shape of a tensor."""
    return tuple(tensor.dims)


def count(shape: tuple[int, ...]) -> int:
    """Number of elements; Python integers, so no product overflows."""
    out = 1
    for dim in shape:
        out *= dim
    return out


def element_type(tensor: Tensor) -> int:
    """TensorProto.DataType of the elements."""
    values = tensor.values if isinstance(tensor, SparseTensorProto) else tensor
    return int(values.data_type)


def type_name(element: int) -> str:
    """FLOAT, INT8, ..."""
    try:
        return str(TensorProto.DataType.Name(element))
    except ValueError:
        return f"type {element}"


def bits(element: int) -> int:
    """Bits that one element takes in a file."""
    if element in _PACKED:
        return _PACKED[element]
    if element == TensorProto.STRING:
        raise UnsupportedError("strings have no fixed size")
    try:
        return int(helper.tensor_dtype_to_np_dtype(element).itemsize) * 8
    except KeyError:
        raise UnsupportedError(f"tensors of element {type_name(element)}") from None


def nbytes(tensor: Tensor) -> int:
    """Bytes of the stored data; sub-byte types count as packed. Strings count their bytes."""
    if isinstance(tensor, SparseTensorProto):
        return nbytes(tensor.values) + nbytes(tensor.indices)
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    return -(-count(dims(tensor)) * bits(tensor.data_type) // 8)


def np_dtype(element: int) -> np.dtype[Any]:
    """numpy (or ml_dtypes) type of an element type."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(element))


def element_of(dtype: np.dtype[Any]) -> int:
    """TensorProto.DataType of a numpy type."""
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def to_array(tensor: Tensor, storage: Storage) -> Array:
    """The values, shape as in the file. Raises InvalidError where data and shape do not fit."""
    if isinstance(tensor, SparseTensorProto):
        return _dense(tensor, storage)
    try:
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        raw = storage.read(reference(tensor))
        if tensor.data_type in _PACKED:
            whole = shell(tensor, None)
            whole.raw_data = raw.tobytes()
            return numpy_helper.to_array(whole)
        return raw.view(np_dtype(tensor.data_type)).reshape(dims(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidError(
            f"its data do not fit {type_name(tensor.data_type)} {list(tensor.dims)}: {error}",
            "the file is damaged",
            tensor.name,
        ) from error


def slices(tensor: Tensor, storage: Storage) -> Iterator[tuple[slice, Array]]:
    """The values in bounded pieces along the first axis, with the place of each.

    Only tensors that are kept elsewhere are read piece by piece. Raises InvalidError.
    """
    shape = dims(tensor)
    small = isinstance(tensor, SparseTensorProto) or tensor.data_location != TensorProto.EXTERNAL
    if small or not shape or tensor.data_type in _PACKED or nbytes(tensor) <= PIECE:
        yield slice(0, shape[0] if shape else 1), to_array(tensor, storage)
        return
    blob = reference(tensor)
    row = nbytes(tensor) // shape[0]
    step = max(1, PIECE // row)
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        part = TensorProto(data_type=tensor.data_type, dims=(stop - start, *shape[1:]))
        refer(part, Blob(blob.location, blob.offset + start * row, (stop - start) * row))
        yield slice(start, stop), to_array(part, storage)


def _dense(tensor: SparseTensorProto, storage: Storage) -> Array:
    values, indices = to_array(tensor.values, storage), to_array(tensor.indices, storage)
    flat = np.zeros(count(dims(tensor)), values.dtype)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), dims(tensor))
    flat[indices] = values
    return flat.reshape(dims(tensor))


def beginning(tensor: Tensor, storage: Storage) -> bytes:
    """The first bytes of a large tensor, to tell it from others; nothing of a small one."""
    if isinstance(tensor, SparseTensorProto) or tensor.data_location != TensorProto.EXTERNAL:
        return b""
    blob = reference(tensor)
    return storage.read(Blob(blob.location, blob.offset, min(blob.length, _BEGINNING))).tobytes()


def from_array(array: Array, storage: Storage, like: Tensor | None = None) -> TensorProto:
    """A nameless tensor with these values; large ones go to scratch.

    Documentation and metadata are taken over from `like`.
    """
    array = np.asarray(array, order="C")
    blob = None
    if array.nbytes >= THRESHOLD and array.dtype.kind in "fiu":  # of numpy: no bits are packed
        whole = TensorProto(data_type=element_of(array.dtype), dims=array.shape)
        blob = storage.append(array.reshape(-1).view(np.uint8))
    else:
        whole = numpy_helper.from_array(array)
        if whole.HasField("raw_data") and len(whole.raw_data) >= THRESHOLD:
            blob = storage.append(np.frombuffer(whole.raw_data, np.uint8))
    if isinstance(like, TensorProto):
        if like.HasField("doc_string"):
            whole.doc_string = like.doc_string
        whole.metadata_props.extend(like.metadata_props)
    return whole if blob is None else shell(whole, blob)
