"""Arithmetic on arrays, against a few lines of numpy."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_compress.kernels import affine
from onnx_compress.kernels.affine import dequantize, quantize, symmetric_scale
from onnx_compress.kernels.magnitude import magnitude_mask

FLOATS = {np.float16: 16, np.float32: 32, np.float64: 64}


@st.composite
def weights(draw, min_side: int = 1):
    """A float array of any size of numbers, the axes with scales of their own, and bits."""
    dtype = draw(st.sampled_from(list(FLOATS)))
    shape = draw(hnp.array_shapes(max_dims=4, max_side=5, min_side=min_side))
    numbers = st.floats(width=FLOATS[dtype], allow_nan=False, allow_infinity=False)
    array = draw(hnp.arrays(dtype, shape, elements=numbers))
    axes = draw(st.sets(st.integers(0, len(shape) - 1)).map(lambda found: tuple(sorted(found))))
    return array, axes, draw(st.integers(2, 8))


def others(array, axes) -> tuple[int, ...]:
    return tuple(axis for axis in range(array.ndim) if axis not in axes)


@given(weights())
def test_a_scale_maps_the_largest_magnitude_of_each_channel_to_the_largest_code(found):
    array, axes, bits = found
    scale = symmetric_scale(array, axes, bits)
    shape = tuple(array.shape[axis] if axis in axes else 1 for axis in range(array.ndim))
    wide = np.promote_types(array.dtype, np.float32)  # narrower scales would lose digits
    assert (scale.shape, scale.dtype) == (shape, wide)
    top = np.abs(array).max(axis=others(array, axes), keepdims=True).astype(np.float64)
    wanted = top / (2 ** (bits - 1) - 1)
    info = np.finfo(wide)
    normal = wanted >= float(info.tiny)
    np.testing.assert_array_equal(scale[normal], wanted[normal].astype(wide))
    assert (scale[top == 0] == 1).all()
    assert (scale >= info.tiny).all()
    assert np.isfinite(scale).all()


@given(weights())
def test_codes_are_the_nearest_steps_within_the_bounds(found):
    array, axes, bits = found
    scale = symmetric_scale(array, axes, bits)
    codes = quantize(array, scale, bits)
    top = 2 ** (bits - 1) - 1
    reference = np.clip(np.rint(array / scale), -top, top)
    assert (codes.dtype, codes.shape) == (np.int8, array.shape)
    np.testing.assert_array_equal(codes, reference)
    with np.errstate(over="ignore"):
        near = np.abs(codes.astype(np.float64) * scale.astype(np.float64) - array)
    eps = float(np.finfo(array.dtype).eps)
    assert (near <= scale.astype(np.float64) * (0.5 + 4 * top * eps)).all()


@given(weights())
def test_what_is_decoded_is_coded_as_it_was(found):
    array, axes, bits = found
    scale = symmetric_scale(array, axes, bits)
    codes = quantize(array, scale, bits)
    with np.errstate(over="ignore"):
        back = dequantize(codes, scale, None, array.dtype)
    assume(np.isfinite(back).all())
    np.testing.assert_array_equal(quantize(back, scale, bits), codes)


@given(weights(min_side=0))
def test_signs_are_treated_alike(found):
    array, axes, bits = found
    scale = symmetric_scale(array, axes, bits)
    np.testing.assert_array_equal(scale, symmetric_scale(-array, axes, bits))
    np.testing.assert_array_equal(quantize(-array, scale, bits), -quantize(array, scale, bits))


@pytest.mark.parametrize("shape", [(7,), (7, 3), (3, 2, 5), (1, 40), ()])
@pytest.mark.parametrize("axes", [(), (0,)])
def test_arrays_larger_than_a_piece_are_coded_like_small_ones(monkeypatch, shape, axes):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    scale = symmetric_scale(array, axes[: array.ndim], 8)
    whole = quantize(array, scale, 8)
    monkeypatch.setattr(affine, "_PIECE", 4)
    np.testing.assert_array_equal(quantize(array, scale, 8), whole)
    np.testing.assert_array_equal(whole, np.clip(np.rint(array / scale), -127, 127))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_arrays_without_elements_have_scales_and_codes(shape):
    array = np.zeros(shape, np.float32)
    for axes in ((), (0,), tuple(range(len(shape)))):
        scale = symmetric_scale(array, axes, 8)
        assert scale.shape == tuple(d if a in axes else 1 for a, d in enumerate(shape))
        assert quantize(array, scale, 8).shape == shape
        assert dequantize(quantize(array, scale, 8), scale, None, "float32").shape == shape


def test_halves_go_to_the_even_code_and_extremes_are_clipped():
    scale = np.float32([1])
    array = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 1000, -1000])
    assert quantize(array, scale, 8).tolist() == [0, 2, 2, 0, -2, 127, -127]
    assert quantize(array, scale, 4).tolist() == [0, 2, 2, 0, -2, 7, -7]


def test_numbers_too_small_for_a_normal_scale_keep_a_usable_one():
    array = np.float32([1e-44, 0, -1e-45])
    scale = symmetric_scale(array, (), 8)
    assert scale[0] == np.finfo(np.float32).tiny
    assert quantize(array, scale, 8).tolist() == [0, 0, 0]


def test_bfloat16_weights_have_scales_and_codes():
    array = np.random.default_rng(0).standard_normal((6, 4)).astype(ml_dtypes.bfloat16)
    scale = symmetric_scale(array, (0,), 8)
    codes = quantize(array, scale, 8)
    back = dequantize(codes, scale, None, array.dtype)
    assert scale.dtype == np.float32
    assert back.dtype == array.dtype
    error = np.abs(back.astype(np.float64) - array.astype(np.float64))
    assert (error <= np.abs(array.astype(np.float64)).max(1, keepdims=True) / 64).all()


def test_inputs_are_left_as_they_are_and_may_be_read_only_and_in_any_order():
    array = np.asfortranarray(np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32))
    array.setflags(write=False)
    before = array.copy()
    scale = symmetric_scale(array, (1,), 8)
    codes = quantize(array[::-1], scale, 8)
    np.testing.assert_array_equal(codes, quantize(np.ascontiguousarray(array[::-1]), scale, 8))
    codes.setflags(write=False)
    zero = np.ones((1, 4), np.int8)
    dequantize(codes, scale, zero, "float32")
    np.testing.assert_array_equal(array, before)
    assert (zero == 1).all()


@given(
    hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=2)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float16", "float32", "float64"]),
)
def test_decoding_is_one_operation_after_the_other_in_the_type_asked_for(codes, s, z, dtype):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 1, (codes.shape[0], 1)).astype(dtype) if s else None
    zero = rng.integers(-9, 9, (1, codes.shape[1])).astype(np.int8) if z else None
    out = dequantize(codes, scale, zero, dtype)
    wanted = codes.astype(dtype)
    if z:
        wanted = wanted - zero.astype(dtype)
    if s:
        wanted = wanted * scale
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, wanted)


numbers = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_side=0, max_side=6),
    elements=st.sampled_from([0, -0.0, 1, -1, 2, 3, -3]),
)


@given(numbers, st.floats(0, 1))
def test_the_smallest_magnitudes_are_dropped_first_ones_among_equals(array, sparsity):
    mask = magnitude_mask(array, sparsity)
    wanted = np.ones(array.size, bool)
    order = np.argsort(np.abs(array).ravel(), kind="stable")
    wanted[order[: int(np.floor(sparsity * array.size))]] = False
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, wanted.reshape(array.shape))


@given(numbers)
def test_no_sparsity_keeps_all_and_full_sparsity_nothing(array):
    assert magnitude_mask(array, 0.0).all()
    assert not magnitude_mask(array, 1.0).any()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_masks_of_other_types_and_of_scalars(dtype):
    array = np.array([[3, -1], [2, -4]], dtype)
    assert magnitude_mask(array, 0.5).tolist() == [[True, False], [False, True]]
    assert magnitude_mask(np.array(2, dtype), 0.5).tolist() is True
    assert magnitude_mask(np.array(2, dtype), 1.0).tolist() is False


def test_numbers_that_are_not_finite_are_kept_the_longest():
    array = np.float32([np.inf, 1, -np.inf, 2, np.nan, 3])
    assert magnitude_mask(array, 0.5).tolist() == [True, False, True, False, True, False]
