"""Tensors are read in pieces, wherever they are stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto, load, tensors
from onnx_compress.ir.graph.storage import Storage, shell

from arrays_in_pieces import (
    ELEMENTS,
    model_of,
    numbers,
    pieces_of,
    stored_in,
    traced,
)

SHAPES = [(), (1,), (7,), (0,), (3, 0), (0, 3), (5, 2), (1, 40), (40, 1), (4, 3, 2, 5)]


def kept_elsewhere(tensor: TensorProto) -> tuple[TensorProto, Storage]:
    """The tensor with its bytes in a scratch file, between others."""
    storage = Storage()
    storage.append(np.full(13, 255, np.uint8))
    blob = storage.append(np.frombuffer(tensor.raw_data, np.uint8))
    storage.append(np.full(13, 255, np.uint8))
    return shell(tensor, blob), storage


def joined(tensor, storage: Storage) -> np.ndarray:
    """The pieces put together; they must be side by side."""
    found, end = [], 0
    for place, array in tensors.slices(tensor, storage):
        assert place.start == end
        assert place.stop - place.start == (len(array) if array.ndim else 1)
        found.append(array)
        end = place.stop
    return np.concatenate(found) if found[0].ndim else found[0]


# ----------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("size", [1, 3, 16, 1 << 24])
@pytest.mark.parametrize("element", ELEMENTS, ids=TensorProto.DataType.Name)
def test_the_pieces_of_a_tensor_are_all_of_it(element, size):
    for shape in SHAPES:
        array = numbers(element, shape)
        whole = numpy_helper.from_array(array)
        assert whole.HasField("raw_data")
        tensor, storage = kept_elsewhere(whole)
        for kept in (whole, tensor):
            with pieces_of(size):
                found = joined(kept, storage)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found, array)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=9, min_side=0)),
    st.integers(1, 200),
)
def test_pieces_are_as_small_as_rows_allow(array, size):
    tensor, storage = kept_elsewhere(numpy_helper.from_array(array))
    with pieces_of(size):
        np.testing.assert_array_equal(joined(tensor, storage), array)
        most = max(part.nbytes for _, part in tensors.slices(tensor, storage))
    assert most <= max(size, array[:1].nbytes)


@pytest.mark.parametrize("element", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1])
def test_packed_numbers_are_read_whole(element):
    array = numbers(element, (9, 3))
    tensor, storage = kept_elsewhere(numpy_helper.from_array(array))
    with pieces_of(1):
        ((place, found),) = tensors.slices(tensor, storage)
    assert place == slice(0, 9)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("element", "field"),
    [
        (TensorProto.FLOAT, "float_data"),
        (TensorProto.DOUBLE, "double_data"),
        (TensorProto.FLOAT16, "int32_data"),
        (TensorProto.BFLOAT16, "int32_data"),
        (TensorProto.INT8, "int32_data"),
        (TensorProto.INT64, "int64_data"),
        (TensorProto.UINT64, "uint64_data"),
        (TensorProto.BOOL, "int32_data"),
    ],
)
def test_numbers_in_typed_fields_are_read(element, field):
    tensor = helper.make_tensor("t", element, [4, 2], [0, 1, 1, 0, 1, 0, 1, 1])
    assert len(getattr(tensor, field)) == 8
    with pieces_of(1):
        found = joined(tensor, Storage())
    np.testing.assert_array_equal(found, tensors.to_array(tensor, Storage()))
    assert found.astype(int).tolist() == [[0, 1], [1, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("size", [100, 5000, 1 << 24])
@pytest.mark.parametrize("place", ["file", "data file", "proto"])
def test_weights_are_read_in_pieces_wherever_they_are(tmp_path, place, size):
    array = np.random.default_rng(0).standard_normal((61, 40)).astype(np.float32)
    model = stored_in(place, array, tmp_path)
    (value,) = model.graph.initializers
    assert value.tensor.data_location == TensorProto.EXTERNAL
    with pieces_of(size):
        np.testing.assert_array_equal(joined(value.tensor, model.storage), array)


@pytest.mark.parametrize("rows", [60, 62])
def test_data_that_do_not_fit_the_shape_are_refused_in_pieces_too(tmp_path, rows):
    stored_in("data file", np.ones((61, 40), np.float32), tmp_path)
    proto = ModelProto.FromString((tmp_path / "m.onnx").read_bytes())
    proto.graph.initializer[0].dims[0] = rows
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())

    def read() -> None:
        model = load(tmp_path / "m.onnx")
        joined(next(iter(model.graph.initializers)).tensor, model.storage)

    for size in (1 << 24, 100):
        with pieces_of(size), pytest.raises(InvalidError):
            read()


def test_reading_a_weight_of_a_proto_holds_one_copy_at_most():
    array = np.zeros((64, 1 << 16), np.float32)
    model = from_proto(model_of(array))
    (value,) = model.graph.initializers
    with pieces_of(1 << 20):
        peak = traced(lambda: [None for _ in tensors.slices(value.tensor, model.storage)])
    assert peak < 1.5 * array.nbytes
