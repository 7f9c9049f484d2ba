"""Codes, scales and halves that are made in pieces are those of the whole array."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.storage import shell
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import Half
from onnx_compress.kernels.affine import largest, quantize, scale_for, symmetric_scale
from onnx_compress.passes.quant.rounding import round_to_nearest

from arrays_in_pieces import (
    pieces_of,
)
from graphs import parsed

READERS = {
    "MatMul": ("y = MatMul(x, w)", (6, 4)),
    "MatMul from the left": ("y = MatMul(w, x)", (6, 4)),
    "MatMul of stacks": ("y = MatMul(x, w)", (3, 6, 4)),
    "Conv": ("y = Conv(x, w)", (6, 4, 3, 3)),
    "ConvTranspose": ("y = ConvTranspose(x, w)", (6, 4, 3)),
    "grouped Conv": ("y = Conv<group = 2>(x, w)", (6, 2, 3)),
    "Gemm": ("y = Gemm(x, w)", (6, 4)),
    "transposed Gemm": ("y = Gemm<transB = 1>(x, w)", (6, 4)),
    "Gather": ("i = Cast<to = 7>(x) y = Gather(w, i)", (9, 4)),
    "Gather along columns": ("i = Cast<to = 7>(x) y = Gather<axis = 1>(w, i)", (9, 4)),
    "LSTM": ("y = LSTM<hidden_size = 3>(x, w, w)", (1, 12, 3)),
    "two readers": ("a = MatMul(x, w) b = Gemm<transB = 1>(a, w) y = Relu(b)", (6, 6)),
    "behind Transpose": ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", (6, 4)),
}


def weight_of(kind: str, array: np.ndarray):
    """The weight, kept elsewhere though it is small."""
    model = from_proto(parsed(f"(float x) => (float y) {{ {READERS[kind][0]} }}", w=array))
    (value,) = model.graph.initializers
    blob = model.storage.append(np.frombuffer(value.tensor.raw_data, np.uint8))
    value.tensor = shell(value.tensor, blob)
    (weight,) = find_weights(model)
    return weight


@st.composite
def weights(draw):
    kind = draw(st.sampled_from(list(READERS)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    array = draw(
        hnp.arrays(
            dtype,
            READERS[kind][1],
            elements=st.floats(-60000, 60000, width=16) | st.sampled_from([0.0, -0.0, 1e-7, 3e4]),
        )
    )
    return kind, array


@given(weights(), st.integers(1, 2000), st.sampled_from([7, 8]))
def test_codes_and_scales_are_those_of_the_whole_array(found, size, bits):
    kind, array = found
    weight = weight_of(kind, array)
    with pieces_of(size):
        codes, scale = round_to_nearest(weight, bits)
    expected = symmetric_scale(array, weight.channel_axes, bits)
    assert (scale.dtype, scale.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(scale, expected)
    np.testing.assert_array_equal(codes, quantize(array, expected, bits))
    assert codes.dtype == np.int8


@given(weights(), st.integers(1, 2000))
def test_halves_are_those_of_the_whole_array(found, size):
    kind, array = found
    with pieces_of(size):
        form = Half.of(weight_of(kind, array))
    with pieces_of(1 << 24):
        whole = Half.of(weight_of(kind, array))
    if isinstance(form, No):
        assert form == whole
        return
    np.testing.assert_array_equal(form.codes.view(np.uint16), whole.codes.view(np.uint16))
    assert (form.scale is None) == (whole.scale is None)
    if form.scale is None:
        expected = array.astype(np.float16)
        np.testing.assert_array_equal(form.codes.view(np.uint16), expected.view(np.uint16))
    else:
        np.testing.assert_array_equal(form.scale, whole.scale)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_finite_is_found_wherever_it_stands(kind, wrong):
    shape = READERS[kind][1]
    for at in {0, 1, int(np.prod(shape)) // 2, int(np.prod(shape)) - 1}:
        array = np.ones(shape, np.float32)
        array.flat[at] = wrong
        for size in (1, 50, 1 << 24):
            with pieces_of(size):
                assert isinstance(round_to_nearest(weight_of(kind, array), 8), No)
                assert isinstance(Half.of(weight_of(kind, array)), No)


def test_a_number_too_large_for_halves_is_found_wherever_it_stands():
    for at in range(0, 24 * 40, 37):
        array = np.ones((24, 40), np.float32)
        array.flat[at] = 65505
        with pieces_of(16):
            form = Half.of(weight_of("MatMul", array))
            assert np.allclose(form.decode(), array, rtol=2**-11)
            assert (form.scale != 1).sum() == 1
            assert isinstance(Half.of(weight_of("MatMul", array[:3, :2] * 65505)), No)
            assert not isinstance(round_to_nearest(weight_of("MatMul", array), 8), No)


@st.composite
def arrays_in_parts(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]))
    shape = draw(hnp.array_shapes(max_dims=4, max_side=5))
    whole = draw(hnp.arrays(np.float32, shape, elements=st.floats(width=16))).astype(dtype)
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1)))))
    cuts = sorted(draw(st.sets(st.integers(1, shape[0]))) | {0, shape[0]})
    return whole, axes, [slice(*pair) for pair in pairwise(cuts)]


@given(arrays_in_parts())
def test_the_largest_of_pieces_is_the_largest_of_the_whole(found):
    array, axes, places = found
    tops = [largest(array[place], axes) for place in places]
    top = np.concatenate(tops) if 0 in axes else np.maximum.reduce(tops)
    whole = largest(array, axes)
    assert (top.dtype, top.shape) == (whole.dtype, whole.shape)
    np.testing.assert_array_equal(top, whole)
    assert np.isfinite(whole).all() == np.isfinite(array.astype(np.float32)).all()


@given(arrays_in_parts(), st.integers(2, 8))
def test_a_scale_is_that_of_the_largest_magnitude(found, bits):
    array, axes, _ = found
    np.testing.assert_array_equal(
        symmetric_scale(array, axes, bits), scale_for(largest(array, axes), bits)
    )
