"""TensorProto to numpy and back, wherever the bytes are."""

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph.storage import THRESHOLD, Storage, shell
from onnx_compress.ir.graph.wire import reference

Array = npt.NDArray[Any]
Tensor = TensorProto | SparseTensorProto

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


def _dense(tensor: SparseTensorProto, storage: Storage) -> Array:
    values, indices = to_array(tensor.values, storage), to_array(tensor.indices, storage)
    flat = np.zeros(count(dims(tensor)), values.dtype)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), dims(tensor))
    flat[indices] = values
    return flat.reshape(dims(tensor))


def from_array(array: Array, storage: Storage, like: Tensor | None = None) -> TensorProto:
    """A nameless tensor with these values; large ones go to scratch.

    Documentation and metadata are taken over from `like`.
    """
    whole = numpy_helper.from_array(np.asarray(array, order="C"))
    if isinstance(like, TensorProto):
        if like.HasField("doc_string"):
            whole.doc_string = like.doc_string
        whole.metadata_props.extend(like.metadata_props)
    if not whole.HasField("raw_data") or len(whole.raw_data) < THRESHOLD:
        return whole
    return shell(whole, storage.append(np.frombuffer(whole.raw_data, np.uint8)))
