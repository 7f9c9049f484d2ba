"""Arrays become tensors and back, of any type, layout and size."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from onnx_compress.ir.graph import elements, tensors
from onnx_compress.ir.graph.storage import THRESHOLD, Storage

from arrays_in_pieces import (
    ELEMENTS,
    numbers,
    traced,
)

SIZES = [(), (0,), (3, 0), (1,), (5, 3), (THRESHOLD, 2), (2, 3, THRESHOLD)]


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers, however they lie in memory."""
    found = {"plain": array}
    if array.ndim:
        found["Fortran"] = np.asfortranarray(array)
        found["every second"] = np.repeat(array, 2, axis=-1)[..., ::2]
        found["reversed"] = array[::-1].copy()[::-1]
    return found


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("element", ELEMENTS, ids=TensorProto.DataType.Name)
def test_arrays_of_any_type_layout_and_size_become_tensors_and_back(element, shape):
    array = numbers(element, shape)
    for given_array in layouts(array).values():
        storage = Storage()
        tensor = tensors.from_array(given_array, storage)
        assert (tensor.data_type, tuple(tensor.dims)) == (element, shape)
        found = tensors.to_array(tensor, storage)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
        large = elements.nbytes(tensor) >= THRESHOLD
        assert (tensor.data_location == TensorProto.EXTERNAL) == large


@pytest.mark.parametrize("size", [3, THRESHOLD])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8"])
def test_arrays_of_the_other_byte_order_become_tensors(kind, size):
    array = np.arange(size).astype(f">{kind}")
    storage = Storage()
    found = tensors.to_array(tensors.from_array(array, storage), storage)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("size", [3, THRESHOLD])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, ml_dtypes.bfloat16, ml_dtypes.int4, bool])
def test_a_tensor_does_not_change_with_the_array_it_was_made_of(dtype, size):
    array = np.ones((2, size), dtype)
    storage = Storage()
    tensor = tensors.from_array(array, storage)
    array[...] = 0
    assert (tensors.to_array(tensor, storage) == np.ones((), dtype)).all()


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(width=32)))
def test_no_bit_of_a_number_is_lost(array):
    for each in (array, np.tile(array, THRESHOLD)):
        storage = Storage()
        found = tensors.to_array(tensors.from_array(each, storage), storage)
        np.testing.assert_array_equal(found.view(np.uint32), each.view(np.uint32))


def test_a_large_array_is_written_without_a_copy():
    array = np.zeros(1 << 23, np.float32)
    storage = Storage()
    assert traced(lambda: tensors.from_array(array, storage)) < array.nbytes // 8
