"""Affine codes and packed codes, against a few lines of numpy, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_compress.kernels.linear import (
    dequantize_linear,
    dynamic_quantize,
    quantize_linear,
    requantize,
)
from onnx_compress.kernels.packing import pack, unpack

shapes = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
DTYPES = [np.uint8, np.int8, np.uint16, np.int16]


@st.composite
def scaled(draw):
    """x, its scale and zero point as given, both as wide as x, and the axis and block size."""
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    kind = draw(st.sampled_from(["all", "axis", "block"]))
    block = draw(st.integers(1, 10)) if kind == "block" else 0
    size = shape[axis]
    if kind == "all":
        own: tuple[int, ...] = ()
    elif kind == "axis":
        own = (size,)
    else:
        own = tuple(
            -(-dim // block) if at == axis % len(shape) else dim for at, dim in enumerate(shape)
        )
    scale = rng.uniform(0.01, 2, own).astype(np.float32)
    zero = rng.integers(-9, 9, own)
    if kind == "block":
        wide = [np.take(np.repeat(a, block, axis), range(size), axis) for a in (scale, zero)]
    elif kind == "axis":
        view = [1] * len(shape)
        view[axis] = size
        wide = [a.reshape(view) for a in (scale, zero)]
    else:
        wide = [scale, zero]
    x = (rng.standard_normal(shape) * 60).astype(np.float32)
    return x, scale, zero, wide, axis, block


@given(scaled(), st.sampled_from(DTYPES), st.integers(1, 2))
def test_codes_are_rounded_quotients_and_back(found, dtype, threads):
    x, scale, zero, (wide_scale, wide_zero), axis, block = found
    info = np.iinfo(dtype)
    codes = quantize_linear(
        x, scale, zero, axis=axis, block_size=block, dtype=dtype, threads=threads
    )
    wanted = np.clip(np.rint(x / wide_scale) + wide_zero, info.min, info.max)
    assert codes.dtype == dtype
    np.testing.assert_array_equal(codes, wanted)
    back = dequantize_linear(codes, scale, zero, axis=axis, block_size=block, threads=threads)
    np.testing.assert_array_equal(back, (codes - wide_zero).astype(np.float32) * wide_scale)


def test_halves_go_to_the_even_code_and_few_bits_have_few_codes():
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf])
    assert quantize_linear(x, 1.0, dtype=np.int8).tolist() == [0, 2, 2, 0, -2, 127, -128, 127, -128]
    assert quantize_linear(x, 1.0, 3, bits=4).tolist() == [3, 5, 5, 3, 1, 15, 0, 15, 0]
    assert quantize_linear(x, 1.0, dtype=np.int8, bits=2).max() == 1


def test_the_quotient_is_divided_and_not_multiplied_by_the_reciprocal():
    x = np.arange(-3000, 3000).astype(np.float32) * np.float32(0.0371 / 2)
    wanted = np.clip(np.rint(x / np.float32(0.0371)), -128, 127)
    np.testing.assert_array_equal(quantize_linear(x, np.float32(0.0371), dtype=np.int8), wanted)


def test_a_place_for_the_result_can_be_given():
    codes = np.arange(6, dtype=np.int32).reshape(2, 3) << 20
    out = np.empty((2, 3), np.float32)
    assert dequantize_linear(codes, 0.5, out=out) is out
    np.testing.assert_array_equal(out, codes.astype(np.float32) * np.float32(0.5))
    with pytest.raises(ValueError, match="C-contiguous"):
        dequantize_linear(codes, 0.5, out=np.empty((3, 2), np.float32))


@pytest.mark.parametrize(
    ("scale", "zero", "axis", "block"),
    [([1, 2], None, 1, 0), ([1, 2, 3], [1, 2], 1, 0), ([1, 2, 3], None, 5, 0), ([1], None, 1, 2)],
)
def test_scales_that_do_not_fit_are_refused(scale, zero, axis, block):
    with pytest.raises(ValueError):
        quantize_linear(np.zeros((2, 3), np.float32), scale, zero, axis=axis, block_size=block)


@given(shapes, st.integers(0, 99), st.floats(0, 1000))
def test_dynamic_codes(shape, seed, spread):
    x = (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)
    codes, scale, zero = dynamic_quantize(x)
    low = np.float32(min(x.min(initial=0), 0))
    high = np.float32(max(x.max(initial=0), 0))
    wanted = np.float32((high - low) / np.float32(255)) or np.float32(1)
    assert scale == wanted
    assert zero == np.clip(np.rint(-low / wanted), 0, 255)
    np.testing.assert_array_equal(codes, np.clip(np.rint(x / wanted) + int(zero), 0, 255))


@given(st.integers(0, 40), st.integers(1, 40), st.booleans(), st.sampled_from(DTYPES[:2]))
def test_requantizing_rounds_one_product_in_float32(rows, columns, each, dtype):
    rng = np.random.default_rng(rows)
    sums = rng.integers(-(10**6), 10**6, (rows, columns)).astype(np.int32)
    scale = rng.uniform(1e-5, 1e-3, columns if each else ()).astype(np.float32)
    info = np.iinfo(dtype)
    wanted = np.clip(np.rint(sums.astype(np.float32) * scale) + 5, info.min, info.max)
    np.testing.assert_array_equal(requantize(sums, scale, 5, dtype=dtype), wanted)
    turned = requantize(np.ascontiguousarray(sums.T), scale, 5, axis=0, dtype=dtype)
    np.testing.assert_array_equal(turned, wanted.T)


@given(st.sampled_from([2, 4, 8]), st.booleans(), st.integers(0, 5), st.integers(0, 30))
def test_codes_are_packed_from_the_lowest_bits(bits, signed, rows, count):
    rng = np.random.default_rng(count)
    low = -(2 ** (bits - 1)) if signed else 0
    codes = rng.integers(low, low + 2**bits, (rows, count))
    packed = pack(codes, bits)
    assert packed.shape == (rows, -(-count * bits // 8))
    for row, given_codes in zip(packed, codes, strict=True):
        number = int.from_bytes(row.tobytes(), "little")
        read = [number >> (bits * k) & (2**bits - 1) for k in range(count)]
        assert read == [int(code) % 2**bits for code in given_codes]
    back = unpack(packed, bits, count, signed)
    assert back.dtype == (np.int8 if signed else np.uint8)
    np.testing.assert_array_equal(back, codes)


def test_packing_has_bounds():
    with pytest.raises(ValueError, match="2, 4 or 8"):
        pack(np.zeros((1, 3), np.uint8), 3)
    with pytest.raises(ValueError, match="hold 4 codes"):
        unpack(np.zeros((1, 2), np.uint8), 4, 5)
