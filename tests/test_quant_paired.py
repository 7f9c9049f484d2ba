"""quant: eight bits on processors that add two products of bytes in 16 bits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.kernels.columns import MOST
from onnx_compress.kernels.integer import matmul_integer
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant
from onnx_compress.passes.quant.paired import partners
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.paired import TOP, drawn_in, largest_pair, within

from models_by_text import build, draw, quant, same_numbers_in_any_order  # noqa: F401

AVX2 = dataclasses.replace(targets.load("avx2"), speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]})


def partner_of(line, **weights):
    (weight,) = find_weights(from_proto(build(line, **weights)))
    return partners(weight.uses[0])


def codes_of(proto):
    arrays = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    (codes,) = (array for array in arrays if array.dtype == np.int8)
    return codes


def worst_pair(codes, partner):
    """Largest |a + b| of neighbours of one sign, [rows, columns]."""
    return int(largest_pair(codes.astype(int), partner).max())


def test_neighbours_of_a_product_lie_beside_each_other():
    line = "g (float[2,5] x) => (float[?,?] y) { y = MatMul (x, W) }"
    assert partner_of(line, W=draw(5, 3)).tolist() == [1, 0, 3, 2, -1]
    line = "g (float[2,4] x) => (float[?,?] y) { y = Gemm <transB=1> (x, W) }"
    assert partner_of(line, W=draw(3, 4)).tolist() == [1, 0, 3, 2]


def test_those_of_a_convolution_go_through_the_channels_of_each_place():
    line = "g (float[1,{c},6,6] x) => (float[?,?,?,?] y) {{ y = Conv <group={g}> (x, W) }}"
    # columns are c * 4 + place; they are run as place * 3 + c
    found = partner_of(line.format(c=3, g=1), W=draw(8, 3, 2, 2))
    run = [c * 4 + place for place in range(4) for c in range(3)]
    for one, other in zip(run[::2], run[1::2], strict=True):
        assert (found[one], found[other]) == (other, one)
    assert partner_of(line.format(c=8, g=8), W=draw(8, 1, 2, 2)) is None  # depthwise
    assert partner_of(line.format(c=8, g=4), W=draw(8, 2, 2, 2)) is not None


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_what_is_drawn_in_never_saturates(rows, columns, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-TOP, TOP + 1, (rows, columns)).astype(np.int8)
    partner = np.arange(columns) ^ 1
    partner[partner >= columns] = -1
    kept = drawn_in(codes, partner)
    assert worst_pair(kept, partner) <= MOST
    assert (np.sign(kept) * np.sign(codes) >= 0).all()
    bytes_ = rng.choice(np.array([0, 255], np.uint8), (16, columns))
    operand = np.ascontiguousarray(kept.T)
    exact = matmul_integer(bytes_, operand, 0, 0)
    assert (matmul_integer(bytes_, operand, 0, 0, saturate=True) == exact).all()
    within = largest_pair(codes.astype(int), partner)[:, 0] <= MOST
    assert (kept[within] == codes[within]).all()


def test_partners_within_some_columns():
    partner = np.array([9, 2, 1, 4, 3, 6, 5, -1, -1, 0])
    assert within(partner, slice(0, 6)).tolist() == [-1, 2, 1, 4, 3, -1]
    assert within(partner, slice(4, 10)).tolist() == [-1, 2, 1, -1, -1, -1]


def test_descent_keeps_pairs_in_and_never_raises_the_loss():
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((16, 40))
    weight[:, :20] = np.abs(weight[:, :20])  # many pairs of one sign
    x = rng.standard_normal((200, 40)) @ rng.standard_normal((40, 40))
    h = x.T @ x / 200
    partner = np.arange(40) ^ 1
    scale = np.abs(weight).max(1, keepdims=True) / TOP
    grid = Grid(scale, np.full_like(scale, TOP), 8, 40, 40, levels=2 * TOP + 1)
    start = drawn_in(np.rint(weight / scale), partner)
    codes, _ = descend(weight, h, grid, start + TOP, 3, partner=partner)
    assert worst_pair(codes - TOP, partner) <= MOST

    def loss(q):
        change = q * scale - weight
        return float(((change @ h) * change).sum())

    assert loss(codes - TOP) < loss(start)


@pytest.mark.parametrize("fitted", [False, True])
def test_most_of_eight_bits_is_used_where_products_saturate(fitted):
    line = "g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }"
    weight = draw(256, 64)
    feeds = [{"x": x} for x in draw(8, 4, 256)]
    fit = feeds if fitted else ()
    codes = codes_of(Quant(bits=8)(build(line, W=weight), sample=feeds[0], fit=fit, target=AVX2))
    assert worst_pair(codes.T, np.arange(256) ^ 1) <= MOST
    assert np.abs(codes.astype(int)).max(0).mean() > 80


def test_rows_of_equal_numbers_get_the_scale_of_seven_bits():
    weight = np.where(draw(256, 64) > 0, np.float32(0.5), np.float32(-0.5))
    line = "g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }"
    codes = codes_of(quant(build(line, W=weight), {"x": draw(4, 256)}, AVX2, bits=8)[0])
    assert (np.abs(codes.astype(int)) == 64).all()
