"""The layout of a weight: its matrix, and the operator computed from that alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights import layout as layouts
from onnx_compress.ir.weights.operators import OPERATORS

from graphs import array, only, run, view

# ------------------------------------------------------------------------------------ layouts


shapes = st.lists(st.sampled_from([1, 2, 3, 4, 5, 0]), min_size=2, max_size=5).map(tuple)


@st.composite
def any_layout(draw):
    shape = draw(shapes)
    kind = draw(st.sampled_from(["rows", "columns", "batched", "convolution", "along"]))
    groups = draw(st.sampled_from([g for g in range(1, 6) if shape[0] % g == 0]))
    if kind == "rows":
        return layouts.rows_first(shape, groups)
    if kind == "columns":
        return layouts.columns_first(shape)
    if kind == "batched":
        return layouts.batched_rows(shape)
    if kind == "convolution":
        return layouts.transposed_convolution(shape, groups)
    return layouts.along(shape, draw(st.integers(0, len(shape) - 1)))


@given(any_layout())
def test_a_matrix_is_restored_to_the_array_it_came_from(layout):
    values = np.arange(np.prod(layout.shape, dtype=int)).reshape(layout.shape)
    matrix = layout.matrix(values)
    assert matrix.shape == (layout.groups, layout.rows, layout.columns)
    np.testing.assert_array_equal(layout.restore(matrix), values)
    np.testing.assert_array_equal(layout.restore(np.ascontiguousarray(matrix)), values)


@given(any_layout())
def test_each_place_along_the_channel_axes_belongs_to_one_group_and_one_row(layout):
    if not all(layout.shape) or len(layout.split) == 4:
        return  # a transposed convolution with groups has a test of its own
    wide = [layout.shape[a] if a in layout.channel_axes else 1 for a in range(len(layout.shape))]
    channel = np.arange(np.prod(wide, dtype=int)).reshape(wide)
    matrix = layout.matrix(np.broadcast_to(channel, layout.shape))
    groups = [set(group.ravel().tolist()) for group in matrix]
    assert sum(len(group) for group in groups) == len(set.union(*groups))
    assert all(len(set(row.tolist())) == 1 for group in matrix for row in group)


# ---------------------------------------------------------- the operator, from its matrix alone


def columns_of(x: np.ndarray, kernel: tuple[int, int], groups: int) -> np.ndarray:
    """[N, groups, columns, places] of an image, without padding or stride."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    n, c, h, w = windows.shape[:4]
    split = windows.reshape(n, groups, c // groups, h, w, *kernel).transpose(0, 1, 2, 5, 6, 3, 4)
    return split.reshape(n, groups, -1, h * w)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_conv_is_the_product_of_its_matrix(groups):
    w = array(6, 6 // groups, 3, 2)
    model = view(f"(float[1,6,5,5] x) => (float y) {{ y = Conv<group = {groups}>(x, w) }}", w=w)
    (use,) = only(model).uses
    x = array(1, 6, 5, 5)
    expected = np.einsum("grc,ngcp->ngrp", use.matrix(w), columns_of(x, (3, 2), groups))
    np.testing.assert_allclose(run(model, x=x)[0], expected.reshape(1, 6, 3, 4), atol=1e-5)
    assert only(model).channel_axes == (0,)
    assert (use.layout.groups, use.layout.rows) == (groups, 6 // groups)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_transposed_conv_is_the_transposed_product_of_its_matrix(groups):
    w = array(6, 4, 2, 3)
    model = view(
        f"(float[1,6,1,1] x) => (float y) {{ y = ConvTranspose<group = {groups}>(x, w) }}", w=w
    )
    (use,) = only(model).uses
    x = array(1, 6, 1, 1)
    matrix = use.matrix(w).reshape(groups, 4, 6 // groups, 2, 3)
    expected = np.einsum("groxy,go->grxy", matrix, x.reshape(groups, 6 // groups))
    np.testing.assert_allclose(run(model, x=x)[0][0], expected.reshape(-1, 2, 3), atol=1e-5)
    assert only(model).channel_axes == ((1,) if groups == 1 else (0,))


def test_scales_of_a_transposed_conv_with_groups_never_span_two_groups():
    text = "(float[1,6,1,1] x) => (float y) { y = ConvTranspose<group = 3>(x, w) }"
    assert only(view(text, w=array(6, 4, 4, 4))).channel_axes == (0, 1)
    assert only(view(text, w=array(6, 1, 4, 4))).channel_axes == (0,)
    assert only(view(text, w=array(6, 4, 3, 3))).channel_axes == (0,)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_the_product_of_its_matrix_on_either_side(transposed):
    w = array(3, 4)
    model = view(
        f"(float[2,{3 + transposed}] x) => (float y) "
        f"{{ y = Gemm<transB = {transposed}>(x, w) }}", w=w
    )  # fmt: skip
    (use,) = only(model).uses
    x = array(2, 3 + transposed)
    np.testing.assert_allclose(run(model, x=x)[0], x @ use.matrix(w)[0].T, atol=1e-5)
    assert use.multiplied
    assert only(model).channel_axes == (1 - transposed,)
    model = view(
        f"(float[{4 - transposed},2] x) => (float y) "
        f"{{ y = Gemm<transA = {transposed}>(w, x) }}", w=w
    )  # fmt: skip
    (use,) = only(model).uses
    x = array(4 - transposed, 2)
    np.testing.assert_allclose(run(model, x=x)[0], use.matrix(w)[0] @ x, atol=1e-5)
    assert not use.multiplied
    assert only(model).channel_axes == (transposed,)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_matmul_is_the_product_of_its_matrix_on_either_side(batch):
    w = array(*batch, 4, 5)
    x = array(*batch, 2, 4)
    model = view(f"(float{list(x.shape)} x) => (float y) {{ y = MatMul(x, w) }}", w=w)
    (use,) = only(model).uses
    expected = x.reshape(-1, 2, 4) @ use.matrix(w).transpose(0, 2, 1)
    np.testing.assert_allclose(run(model, x=x)[0].reshape(-1, 2, 5), expected, atol=1e-5)
    assert only(model).channel_axes == (*range(len(batch)), len(batch) + 1)
    x = array(*batch, 5, 2)
    model = view(f"(float{list(x.shape)} x) => (float y) {{ y = MatMul(w, x) }}", w=w)
    (use,) = only(model).uses
    expected = use.matrix(w) @ x.reshape(-1, 5, 2)
    np.testing.assert_allclose(run(model, x=x)[0].reshape(-1, 4, 2), expected, atol=1e-5)
    assert only(model).channel_axes == tuple(range(len(batch) + 1))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_gather_picks_rows_of_its_matrix(axis):
    w = array(3, 4, 5)
    model = view(f"(int64 i) => (float y) {{ y = Gather<axis = {axis}>(w, i) }}", w=w)
    (use,) = only(model).uses
    picked = use.matrix(w)[0][1]
    got = run(model, i=np.int64(1))[0]
    np.testing.assert_array_equal(got.ravel(), picked)
    assert use.gathered
    assert only(model).channel_axes == (axis % 3,)


def test_lstm_multiplies_both_of_its_matrices():
    w, r = array(2, 8, 3), array(2, 8, 2)
    model = view(
        "(float[5,1,3] x) => (float y) "
        '{ y = LSTM<hidden_size = 2, direction = "bidirectional">(x, w, r) }', w=w, r=r
    )  # fmt: skip
    first, second = find_weights(model)
    assert [(weight.name, weight.uses[0].slot) for weight in (first, second)] == [
        ("w", 1),
        ("r", 2),
    ]
    np.testing.assert_array_equal(first.uses[0].matrix(w), w)
    np.testing.assert_array_equal(second.uses[0].matrix(r), r)
    assert first.channel_axes == (0, 1)


SAMPLES = {
    "Conv": "y = Conv(x, w)",
    "com.microsoft.FusedConv": 'y = com.microsoft.FusedConv<activation = "Relu">(x, w)',
    "ConvTranspose": "y = ConvTranspose(x, w)",
    "Gemm": "f = Flatten(x)  y = Gemm(f, m)",
    "MatMul": "y = MatMul(x, m)",
    "Gather": "i = Shape(x)  y = Gather(m, i)",
    "LSTM": "y = LSTM<hidden_size = 1>(x, w, w)",
    "GRU": "y = GRU<hidden_size = 1>(x, w, w)",
    "RNN": "y = RNN<hidden_size = 1>(x, w, w)",
    "com.microsoft.Attention": "y = com.microsoft.Attention<num_heads = 1>(x, m, b)",
}


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_of_the_table_is_found(op):
    model = view(
        f"(float x) => (float y) {{ {SAMPLES[op]} }}", w=array(4, 2, 3), m=array(6, 6), b=array(6)
    )
    found = [(use.node.op, use.slot) for weight in find_weights(model) for use in weight.uses]
    expected = [(op, slot) for slot in OPERATORS[op].slots if slot or op == "Gather"]
    assert found == expected
    for weight in find_weights(model):
        for use in weight.uses:
            stored = weight.array()
            np.testing.assert_array_equal(use.layout.restore(use.matrix(stored)), stored)
            assert use.operand is use.node.inputs[use.slot]
