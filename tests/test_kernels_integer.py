"""Products and convolutions of 8-bit integers, against int64 in numpy, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_compress.kernels.convolution import conv_integer, qlinear_conv
from onnx_compress.kernels.integer import matmul_integer, prepare, qlinear_matmul

from kernel_paths import every_path

BYTES = [np.uint8, np.int8]
sizes = st.tuples(st.integers(0, 21), st.integers(0, 70), st.integers(0, 90))


def drawn(rng, dtype, shape):
    """Codes with many extremes among them."""
    info = np.iinfo(dtype)
    some = rng.integers(info.min, info.max + 1, shape)
    ends = rng.choice([info.min, info.max], shape)
    return np.where(rng.random(shape) < 0.3, ends, some).astype(dtype)


def saturated(a, b):
    """Pairs of products along K, clipped to 16 bits, then summed."""
    odd = a.shape[1] % 2
    pairs = np.pad(a, ((0, 0), (0, odd))).astype(np.int64), np.pad(b, ((0, odd), (0, 0)))
    half = (a.shape[1] + odd) // 2
    left = pairs[0].reshape(len(a), half, 2)
    right = pairs[1].reshape(half, 2, b.shape[1]).astype(np.int64)
    return np.clip(np.einsum("mkp,kpn->mkn", left, right), -32768, 32767).sum(1)


@every_path
@given(sizes, st.sampled_from(BYTES), st.sampled_from(BYTES), st.booleans(), st.integers(1, 3))
def test_products_are_exact(path, size, of_a, of_b, zeros, threads):
    rows, deep, columns = size
    rng = np.random.default_rng(size)
    a, b = drawn(rng, of_a, (rows, deep)), drawn(rng, of_b, (deep, columns))
    a_zero = drawn(rng, of_a, rows) if zeros else np.array(0, of_a)
    b_zero = drawn(rng, of_b, columns) if zeros else np.array(0, of_b)
    wanted = (a.astype(np.int64) - a_zero.reshape(-1, 1)) @ (b.astype(np.int64) - b_zero)
    out = matmul_integer(a, b, a_zero, b_zero, threads=threads, path=path)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, wanted)


@every_path
@given(sizes, st.integers(-63, 63), st.integers(1, 3))
def test_products_with_codes_of_seven_bits_are_exact(path, size, zero, threads):
    rows, deep, columns = size
    rng = np.random.default_rng(size)
    a = drawn(rng, np.uint8, (rows, deep))
    b = rng.choice([-64, -1, 0, 3, 64], (deep, columns)).astype(np.int8)
    out = matmul_integer(a, b, 255, zero, threads=threads, path=path)
    wanted = (a.astype(np.int64) - 255) @ (b.astype(np.int64) - zero)
    np.testing.assert_array_equal(out, wanted)


@every_path
@given(sizes, st.booleans(), st.integers(1, 3))
def test_saturating_products_clip_pairs_to_sixteen_bits(path, size, signed, threads):
    rows, deep, columns = size
    rng = np.random.default_rng(size)
    a = drawn(rng, np.int8 if signed else np.uint8, (rows, deep))
    b = drawn(rng, np.int8, (deep, columns))
    raw = (a ^ np.int8(-128)).view(np.uint8) if signed else a
    moved = 128 * b.sum(0, dtype=np.int64) if signed else 0
    out = matmul_integer(a, b, saturate=True, threads=threads, path=path)
    np.testing.assert_array_equal(out, saturated(raw, b) - moved)
    unsigned = matmul_integer(a, b.view(np.uint8), saturate=True, path=path)
    np.testing.assert_array_equal(unsigned, a.astype(np.int64) @ b.view(np.uint8))


@every_path
def test_sums_wrap_as_32_bits_do(path):
    a, b = np.full((1, 70000), 255, np.uint8), np.full((70000, 3), 127, np.int8)
    wanted = (a.astype(np.int64) @ b).astype(np.int32)
    np.testing.assert_array_equal(matmul_integer(a, b, path=path), wanted)


@every_path
def test_batches_broadcast(path):
    rng = np.random.default_rng(0)
    a, b = drawn(rng, np.uint8, (2, 1, 4, 9)), drawn(rng, np.int8, (3, 9, 5))
    wanted = (a.astype(np.int64) - 3) @ (b.astype(np.int64) - 1)
    np.testing.assert_array_equal(matmul_integer(a, b, 3, 1, path=path), wanted)
    one = matmul_integer(a[0, 0, 0], b[0], 3, 1, path=path)
    np.testing.assert_array_equal(one, wanted[0, 0, 0])


@every_path
def test_a_matrix_laid_out_before_gives_the_same(path):
    rng = np.random.default_rng(0)
    a, b = drawn(rng, np.uint8, (7, 33)), drawn(rng, np.int8, (33, 20))
    b.setflags(write=False)
    ready = prepare(b, path=path)
    np.testing.assert_array_equal(matmul_integer(a, ready, 9), matmul_integer(a, b, 9))


@every_path
@pytest.mark.parametrize("of_a", BYTES)
@pytest.mark.parametrize("each", [False, True])
def test_quantized_products_round_as_the_operator_does(path, of_a, each):
    rng = np.random.default_rng(0)
    a, b = drawn(rng, of_a, (33, 64)), drawn(rng, np.int8, (64, 40))
    b_scale = rng.uniform(0.001, 0.01, 40 if each else ()).astype(np.float32)
    sums = (a.astype(np.int64) - 5) @ b.astype(np.int64)
    scale = np.float32(0.023) * b_scale / np.float32(0.37)
    info = np.iinfo(of_a)
    wanted = np.clip(np.rint(sums.astype(np.float32) * scale) + 11, info.min, info.max)
    out = qlinear_matmul(
        a, np.float32(0.023), 5, b, b_scale, 0, np.float32(0.37), of_a(11), path=path
    )
    assert out.dtype == of_a
    np.testing.assert_array_equal(out, wanted)


def test_what_does_not_fit_is_refused():
    a, b = np.zeros((2, 3), np.uint8), np.zeros((4, 5), np.int8)
    with pytest.raises(ValueError, match="do not fit"):
        matmul_integer(a, b)
    with pytest.raises(ValueError, match="int8 or uint8"):
        matmul_integer(a.astype(np.int32), b)
    with pytest.raises(ValueError, match="rank"):
        prepare(b[0])
    with pytest.raises(ValueError, match="groups"):
        conv_integer(np.zeros((1, 3, 4, 4), np.uint8), np.zeros((2, 2, 1, 1), np.int8))


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    group = draw(st.integers(1, 3))
    ins, outs = (group * draw(st.integers(1, 3)) for _ in range(2))
    taps = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    strides, dilations = (tuple(draw(st.integers(1, 2)) for _ in range(rank)) for _ in range(2))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    size = tuple(
        dilation * (tap - 1) + 1 + draw(st.integers(0, 3))
        for tap, dilation in zip(taps, dilations, strict=True)
    )
    shapes = (draw(st.integers(1, 2)), ins, *size), (outs, ins // group, *taps)
    return shapes, {"strides": strides, "dilations": dilations, "pads": pads, "group": group}


def convolved(x, w, strides, pads, dilations, group):
    """The definition, place by place."""
    rank = len(strides)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [d * (t - 1) + 1 for d, t in zip(dilations, w.shape[2:], strict=True)]
    spans = zip(x.shape[2:], reach, strides, strict=True)
    places = [(size - span) // stride + 1 for size, span, stride in spans]
    out = np.zeros((x.shape[0], w.shape[0], *places), np.int64)
    outs = w.shape[0] // group
    for o in range(w.shape[0]):
        own = slice(o // outs * w.shape[1], (o // outs + 1) * w.shape[1])
        for at in np.ndindex(*places):
            window = tuple(
                slice(i * stride, i * stride + span, dilation)
                for i, stride, span, dilation in zip(at, strides, reach, dilations, strict=True)
            )
            part = x[(slice(None), own, *window)]
            out[(slice(None), o, *at)] = (part * w[o]).reshape(len(x), -1).sum(1)
    return out


@every_path
@given(convolutions(), st.sampled_from(BYTES), st.sampled_from(BYTES), st.integers(0, 99))
def test_convolutions_are_exact(path, found, of_x, of_w, seed):
    (of_input, of_weight), options = found
    rng = np.random.default_rng(seed)
    x, w = drawn(rng, of_x, of_input), drawn(rng, of_w, of_weight)
    w_zero = drawn(rng, of_w, len(w))
    wide = w.astype(np.int64) - w_zero.reshape(-1, *(1,) * (w.ndim - 1))
    wanted = convolved(x.astype(np.int64) - 7, wide, **options)
    out = conv_integer(x, w, 7, w_zero, path=path, **options)
    np.testing.assert_array_equal(out, wanted)


def test_quantized_convolutions_add_the_bias_before_rounding():
    rng = np.random.default_rng(0)
    x, w = drawn(rng, np.uint8, (2, 4, 6, 5)), drawn(rng, np.int8, (3, 4, 3, 3))
    bias = rng.integers(-5000, 5000, 3).astype(np.int32)
    w_scale = np.float32([0.01, 0.002, 0.03])
    options = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    sums = convolved(x.astype(np.int64) - 9, w.astype(np.int64), **options)
    sums = (sums + bias.reshape(1, 3, 1, 1)).astype(np.float32)
    scale = (np.float32(0.02) * w_scale / np.float32(0.21)).reshape(1, 3, 1, 1)
    wanted = np.clip(np.rint(sums * scale) - 3, -128, 127)
    out = qlinear_conv(
        x, np.float32(0.02), 9, w, w_scale, 0, np.float32(0.21), np.int8(-3), bias, **options
    )
    np.testing.assert_array_equal(out, wanted)
