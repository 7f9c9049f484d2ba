"""Weights of few bits, ternary and binary ones, against a few lines of numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.kernels import binary, nbits, packing, ternary

from kernel_paths import every_path

BLOCKS = [16, 32, 64, 128, 256]


@st.composite
def blocked(draw, blocks=tuple(BLOCKS)):
    """x, the inputs of MatMulNBits, its attributes, and codes and zero points one in each place."""
    bits, size = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from(blocks))
    rows, columns, outs = (
        draw(st.integers(0, 7)),
        draw(st.integers(1, 600)),
        draw(st.integers(1, 40)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    count = -(-columns // size)
    q = rng.integers(0, 2**bits, (outs, count, size))
    scales = rng.uniform(-0.1, 2, (outs, count)).astype(np.float32)
    kind = draw(st.sampled_from(["none", "packed", "float"]))
    zero, given_zero = np.full((outs, count), 2.0 ** (bits - 1)), None
    if kind == "packed":
        zero = rng.integers(0, 2**bits, (outs, count))
        given_zero = packing.pack(zero, bits).reshape(-1)
    elif kind == "float":
        zero = given_zero = rng.uniform(0, 2**bits, (outs, count)).astype(np.float32)
    x = (rng.standard_normal((rows, columns)) * rng.choice([0, 1, 50], (rows, 1))).astype(
        np.float32
    )
    attributes = {"bits": bits, "block_size": size, "columns": columns}
    codes = nbits.block_codes(packing.pack(q, bits), scales, given_zero, **attributes)
    return x, codes, q, zero.astype(np.float32), scales


def four(x, q, zero, scales):
    """Level 4, step by step in float32."""
    outs, count, size = q.shape
    wide = np.zeros((len(x), count * size), np.float32)
    wide[:, : x.shape[1]] = x
    parts = wide.reshape(len(x), count, size)
    largest = np.abs(parts).max(2)
    t = largest / np.float32(127)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(t), where=largest > 0)
    codes = np.rint(parts * inverse[..., None]).astype(np.int64)
    total = np.zeros((len(x), outs), np.float32)
    for b in range(count):
        dot = (codes[:, b] @ q[:, b].T).astype(np.float32)
        less = codes[:, b].sum(1).astype(np.float32)[:, None] * zero[:, b]
        total += (dot - less) * (t[:, b, None] * scales[:, b])
    return total


@every_path
@settings(max_examples=40)
@given(blocked(), st.integers(1, 2))
def test_int8_activations_bit_for_bit(path, found, threads):
    x, codes, q, zero, scales = found
    out = nbits.matmul_nbits(x, codes, accuracy_level=4, threads=threads, path=path)
    np.testing.assert_array_equal(out, four(x, q, zero, scales))


@every_path
@settings(max_examples=40)
@given(blocked(), st.integers(1, 2))
def test_float_activations_up_to_rounding(path, found, threads):
    x, codes, q, zero, scales = found
    plain = (q.astype(np.float32) - zero[..., None]) * scales[..., None]
    plain = plain.reshape(len(q), -1)[:, : x.shape[1]]
    np.testing.assert_array_equal(nbits.decode(codes), plain)
    bias = np.arange(len(q), dtype=np.float32)
    out = nbits.matmul_nbits(x, codes, bias=bias, threads=threads, path=path)
    wanted = x.astype(np.float64) @ plain.T.astype(np.float64) + bias
    reach = np.abs(x).astype(np.float64) @ np.abs(plain.T) + np.abs(bias)
    assert (np.abs(out - wanted) <= 1e-6 * x.shape[1] ** 0.5 * reach + 1e-6).all()


@every_path
def test_leading_axes_stay_and_threads_change_nothing(path):
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (70, 4, 16)).astype(np.uint8)
    scales = rng.random((70, 4)).astype(np.float32)
    codes = nbits.block_codes(packed, scales, bits=4, block_size=32, columns=128)
    ready = nbits.prepare(codes, path=path)
    x = rng.standard_normal((2, 3, 128)).astype(np.float32)
    for level in (0, 4):
        one = nbits.matmul_nbits(x, ready, accuracy_level=level)
        assert one.shape == (2, 3, 70)
        for threads in (2, 3):
            more = nbits.matmul_nbits(x, ready, accuracy_level=level, threads=threads)
            np.testing.assert_array_equal(more, one)


def test_blocks_that_do_not_fit_are_refused():
    packed, scales = np.zeros((2, 2, 16), np.uint8), np.zeros((2, 2), np.float32)
    for bits, size, columns in ((3, 32, 64), (4, 8, 64), (4, 32, 100)):
        with pytest.raises(ValueError):
            nbits.block_codes(packed, scales, bits=bits, block_size=size, columns=columns)
    codes = nbits.block_codes(packed, scales, bits=4, block_size=32, columns=64)
    with pytest.raises(ValueError, match="columns"):
        nbits.matmul_nbits(np.zeros((1, 65), np.float32), codes)
    with pytest.raises(ValueError, match="level 2"):
        nbits.matmul_nbits(np.zeros((1, 64), np.float32), codes, accuracy_level=2)


@every_path
@settings(max_examples=30)
@given(st.integers(0, 6), st.integers(1, 40), st.integers(1, 700), st.integers(1, 2))
def test_ternary_products(path, rows, outs, columns, threads):
    rng = np.random.default_rng(columns)
    t = rng.integers(-1, 2, (outs, columns))
    scale = rng.random(outs).astype(np.float32)
    packed = ternary.pack_ternary(t)
    np.testing.assert_array_equal(ternary.unpack_ternary(packed, columns), t)
    weights = ternary.prepare(packed, scale, columns=columns, path=path)
    codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    dots = ternary.ternary_dot(codes, weights, threads=threads)
    np.testing.assert_array_equal(dots, codes.astype(np.int64) @ t.T)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    largest = np.abs(x).max(1, keepdims=True, initial=0)
    q = np.rint(x * (np.float32(127) / largest)).astype(np.int64)
    wanted = (q @ t.T).astype(np.float32) * (largest / np.float32(127) * scale)
    out = ternary.matmul_ternary(x, weights, threads=threads)
    np.testing.assert_array_equal(out, wanted)
    plain = ternary.matmul_ternary(x, weights, accuracy_level=0, threads=threads)
    np.testing.assert_allclose(plain, (x.astype(np.float64) @ t.T) * scale, rtol=0, atol=1e-3)


def test_ternary_weights_have_bounds():
    with pytest.raises(ValueError, match="-1, 0 or 1"):
        ternary.pack_ternary(np.array([[0, 2]]))
    with pytest.raises(ValueError, match="131072"):
        ternary.prepare(np.zeros((1, 50000), np.uint8), 1.0, columns=200000)


def signs(x):
    return np.where(x >= 0, 1, -1)


@every_path
@given(st.integers(0, 9), st.integers(1, 140), st.integers(1, 600), st.integers(1, 2))
def test_products_of_signs(path, rows, outs, columns, threads):
    rng = np.random.default_rng(columns)
    a, b = (rng.standard_normal((n, columns)) for n in (rows, outs))
    a[:, ::7] = 0
    words = binary.pack_signs(a)
    np.testing.assert_array_equal(binary.unpack_signs(words, columns), signs(a))
    ready = binary.prepare(binary.pack_signs(b), columns, path=path)
    out = binary.xnor_dot(words, ready, threads=threads)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, signs(a) @ signs(b).T)


@every_path
def test_opposite_signs_all_the_way_do_not_overflow(path):
    ones = np.ones((5, 5000), np.float32)
    ready = binary.prepare(binary.pack_signs(-ones), 5000, path=path)
    assert (binary.xnor_dot(binary.pack_signs(ones), ready) == -5000).all()


@every_path
def test_several_bases_are_summed_in_order(path):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 130)), rng.standard_normal((3, 20, 130))
    a_scale, b_scale = (rng.random(s).astype(np.float32) for s in ((2, 5), (3, 20)))
    ready = [binary.prepare(binary.pack_signs(part), 130, path=path) for part in b]
    out = binary.matmul_binary(binary.pack_signs(a), a_scale, ready, b_scale)
    wanted = np.zeros((5, 20), np.float32)
    for p in range(2):
        for q in range(3):
            dots = (signs(a[p]) @ signs(b[q]).T).astype(np.float32)
            wanted += dots * (a_scale[p, :, None] * b_scale[q])
    np.testing.assert_array_equal(out, wanted)
    decoded = binary.decode_binary(binary.pack_signs(b), b_scale, 130)
    np.testing.assert_allclose(decoded, (signs(b) * b_scale[..., None]).sum(0), atol=1e-6)


def test_signs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="uint64"):
        binary.prepare(np.zeros((2, 2), np.uint64), 64)
