"""Element types of tensors: their names, their sizes, and their numpy types."""

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import SparseTensorProto, TensorProto, helper

from onnx_compress.ir.errors import UnsupportedError

Array = npt.NDArray[Any]
Tensor = TensorProto | SparseTensorProto
STRING = int(TensorProto.STRING)

# bits per element of the types that share bytes
PACKED = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{getattr(TensorProto, name): 2 for name in ("INT2", "UINT2") if hasattr(TensorProto, name)},
    **{
        getattr(TensorProto, name): 6
        for name in ("FLOAT6E2M3", "FLOAT6E3M2")
        if hasattr(TensorProto, name)
    },
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
    if element in PACKED:
        return PACKED[element]
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
