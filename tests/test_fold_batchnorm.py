"""fold: a BatchNormalization goes into the layer beside it, or stays with a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress import compress

from models_by_text import (
    assert_same,
    build,
    draw,
    fold,
    norm,
    ops,
    same_numbers_in_any_order,  # noqa: F401
)

FOLDED = {
    "conv": ("h = Conv <pads=[1,1,1,1]> (x, W)", [2, 3, 6, 6], (4, 3, 3, 3), 4),
    "conv bias": ("h = Conv (x, W, c)", [2, 3, 6, 6], (4, 3, 3, 3), 4),
    "conv groups": ("h = Conv <group=2> (x, W, c)", [2, 4, 5, 5], (6, 2, 3, 3), 6),
    "conv depthwise": ("h = Conv <group=4, strides=[2,2]> (x, W)", [1, 4, 7, 7], (4, 1, 3, 3), 4),
    "conv 1d": ("h = Conv (x, W, c)", [2, 3, 9], (4, 3, 3), 4),
    "conv 3d": ("h = Conv (x, W, c)", [1, 2, 4, 4, 4], (3, 2, 2, 2, 2), 3),
    "transposed": ("h = ConvTranspose <strides=[2,2]> (x, W, c)", [1, 4, 5, 5], (4, 6, 3, 3), 6),
    "transposed groups": ("h = ConvTranspose <group=2> (x, W)", [1, 4, 5, 5], (4, 3, 3, 3), 6),
    "gemm": ("h = Gemm (x, W)", [5, 3], (3, 4), 4),
    "gemm bias": ("h = Gemm (x, W, c)", [5, 3], (3, 4), 4),
    "gemm turned": ("h = Gemm <transB=1> (x, W, c)", [5, 3], (4, 3), 4),
    "gemm factors": ("h = Gemm <alpha=0.5, beta=3.0> (x, W, c)", [5, 3], (3, 4), 4),
    "gemm turned input": ("h = Gemm <transA=1> (x, W, c)", [3, 5], (3, 4), 4),
    "matmul": ("h = MatMul (x, W)", [5, 3], (3, 4), 4),
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_normalization_goes_into_what_is_before_it(name):
    line, shape, weight, channels = FOLDED[name]
    extra = {"c": draw(channels)} if ", c)" in line else {}
    rank = ",".join(["N", *map(str, shape[1:])]) if "transA" not in line else "3,5"
    out = ",".join("?" for _ in shape)
    proto = build(
        f"g (float[{rank}] x) => (float[{out}] y) {{ {line}  y = BatchNormalization (h,g,b,m,v) }}",
        W=draw(*weight),
        **extra,
        **norm(channels),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" not in ops(folded)
    assert len(ops(folded)) == (2 if name == "matmul" else 1)
    assert report.modified
    assert_same(proto, folded, {"x": draw(*shape)})


@pytest.mark.parametrize(
    ("line", "shape", "weight", "shift"),
    [
        ("y = Conv (n, W)", [2, 3, 6, 6], (4, 3, 3, 3), True),
        ("y = Conv (n, W, c)", [2, 3, 6, 6], (4, 3, 3, 3), True),
        ("y = Conv <group=2> (n, W, c)", [2, 4, 6, 6], (4, 2, 3, 3), True),
        ("y = Conv <auto_pad='VALID'> (n, W)", [2, 3, 6, 6], (4, 3, 3, 3), True),
        ("y = Conv <pads=[1,1,1,1]> (n, W)", [2, 3, 6, 6], (4, 3, 3, 3), False),
        ("y = Gemm (n, W, c)", [5, 3], (3, 4), True),
        ("y = Gemm <transB=1> (n, W)", [5, 3], (4, 3), True),
        ("y = Gemm <alpha=0.5, beta=2.0, transB=1> (n, W, c)", [5, 3], (4, 3), True),
        ("y = MatMul (n, W)", [5, 3], (3, 4), True),
    ],
)
def test_a_normalization_goes_into_what_follows_it(line, shape, weight, shift):
    channels = shape[1]
    proto = build(
        f"g (float[{','.join(map(str, shape))}] x) => (float[{','.join('?' * len(shape))}] y) "
        f"{{ n = BatchNormalization (x,g,b,m,v)  {line.replace(chr(39), chr(34))} }}",
        W=draw(*weight),
        c=draw(4),
        **norm(channels, shift),
    )
    folded, _ = fold(proto)
    assert "BatchNormalization" not in ops(folded)
    assert_same(proto, folded, {"x": draw(*shape)})


REFUSED = {
    "padding": ("n = {BN} (x,g,b,m,v)  y = Conv <pads=[1,1,1,1]> (n, W)", "pads with zeros"),
    "automatic padding": (
        'n = {BN} (x,g,b,m,v)  y = Conv <auto_pad="SAME_UPPER"> (n, W)',
        "pads with zeros",
    ),
    "shared weight": (
        "h = Conv (x, W)  k = Conv (x, W)  n = {BN} (h,g,b,m,v)  y = Add (n, k)",
        "shared",
    ),
    "read twice": ("h = Conv (x, W)  n = {BN} (h,g,b,m,v)  y = Add (n, h)", "2 uses"),
    "read twice after": (
        "n = {BN} (x,g,b,m,v)  h = Conv (n, W)  r = Relu (n)  k = Conv (r, V)  y = Add (h, k)",
        "2 uses",
    ),
    "computed weight": ("U = Mul (W, s)  h = Conv (x, U)  y = {BN} (h,g,b,m,v)", "not constant"),
    "computed bias": ("h = Conv (x, W, s4)  y = {BN} (h,g,b,m,v)", "bias"),
    "computed scale": ("h = Conv (x, W)  y = {BN} (h,s4,b,m,v)", "not constant"),
    "training": ("h = Conv (x, W)  y, p, q = {BN} <training_mode=1> (h,g,b,m,v)", "training"),
    "no neighbour": ("h = Relu (x)  y = {BN} (h,g,b,m,v)", "Relu"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_normalization_is_left_alone_with_a_reason(name):
    lines, reason = REFUSED[name]
    proto = build(
        "g (float[2,4,6,6] x, float[1] s, float[4] s4) => (float[?,?,?,?] y) "
        f"{{ {lines.replace('{BN}', 'BatchNormalization')} }}",
        W=draw(4, 4, 3, 3),
        V=draw(4, 4, 3, 3),
        **norm(4),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any(reason in entry.text for entry in report.skipped)
    feed = {"x": draw(2, 4, 6, 6), "s": draw(1), "s4": np.abs(draw(4))}
    assert_same(proto, folded, feed)


def test_a_convolution_that_is_given_out_keeps_its_output():
    proto = build(
        "g (float[1,4,6,6] x) => (float[?,?,?,?] h, float[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(4, 4, 3, 3),
        **norm(4),
    )
    folded, report = fold(proto)
    assert ops(folded) == ["BatchNormalization", "Conv"]
    assert any("given out" in entry.text for entry in report.skipped)
    assert_same(proto, folded, {"x": draw(1, 4, 6, 6)})


def test_a_product_of_more_than_matrices_is_refused():
    proto = build(
        "g (float[2,5,3] x) => (float[?,?,?] y) "
        "{ h = MatMul (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(3, 4),
        **norm(5),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any("matrices" in entry.text for entry in report.skipped)
    assert_same(proto, folded, {"x": draw(2, 5, 3)})


def test_a_bias_for_each_row_is_refused():
    proto = build(
        "g (float[5,3] x) => (float[?,?] y) { h = Gemm (x, W, c)  y = BatchNormalization "
        "(h,g,b,m,v) }",
        W=draw(3, 4),
        c=draw(5, 1),
        **norm(4),
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any("bias" in entry.text for entry in report.skipped)
    assert_same(proto, folded, {"x": draw(5, 3)})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 4), (4,)])
def test_biases_of_any_shape_that_is_one_number_a_channel_are_folded(shape):
    proto = build(
        "g (float[5,3] x) => (float[?,?] y) "
        "{ h = Gemm <beta=2.0> (x, W, c)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(3, 4),
        c=np.asarray(draw(*shape), "float32"),
        **norm(4),
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Gemm"]
    assert_same(proto, folded, {"x": draw(5, 3)})


def test_numbers_that_leave_the_range_of_the_type_are_refused():
    numbers = norm(4) | {"v": np.full(4, 1e-12, "float32"), "g": np.full(4, 1e38, "float32")}
    proto = build(
        "g (float[1,4,6,6] x) => (float[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(4, 4, 3, 3),
        **numbers,
    )
    folded, report = fold(proto)
    assert "BatchNormalization" in ops(folded)
    assert any("range" in entry.text for entry in report.skipped)


def test_normalization_of_every_place_by_itself_does_no_harm():
    numbers = {name: np.abs(draw(4, 4, 4)) for name in "gbmv"}
    proto = build(
        "g (float[1,4,6,6] x) => (float[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization <spatial=0> (h,g,b,m,v) }",
        opset=8,
        W=draw(4, 4, 3, 3),
        **numbers,
    )
    folded, _ = fold(proto)
    assert "BatchNormalization" in ops(folded)


def test_half_precision_models_pass_their_own_verification():
    weights = {name: array.astype("float16") for name, array in norm(8).items()}
    proto = build(
        "g (float16[2,8,9,9] x) => (float16[?,?,?,?] y) "
        "{ h = Conv (x, W)  y = BatchNormalization (h,g,b,m,v) }",
        W=draw(8, 8, 3, 3, dtype="float16"),
        **weights,
    )
    result = compress(proto, "fold")
    assert result.report.quality.sqnr_db > 40


@settings(max_examples=30)
@given(st.data())
def test_convolutions_of_any_attributes_fold_exactly(data):
    groups = data.draw(st.sampled_from([1, 2, 3]))
    inputs, outputs = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    kernel = data.draw(st.integers(1, 3))
    stride = data.draw(st.integers(1, 2))
    pads = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    epsilon = data.draw(st.sampled_from([1e-5, 1e-3, 0.1]))
    op = data.draw(st.sampled_from(["Conv", "ConvTranspose"]))
    before = data.draw(st.booleans())
    shape = (inputs, outputs // groups) if op == "ConvTranspose" else (outputs, inputs // groups)
    attributes = f"group={groups}, strides=[{stride},{stride}], pads={pads}"
    convolution = f"{op} <{attributes}> ({'n' if before else 'x'}, W, c)"
    norms = f"BatchNormalization <epsilon={epsilon}> ({'x' if before else 'h'}, g, b, m, v)"
    lines = f"n = {norms} y = {convolution}" if before else f"h = {convolution} y = {norms}"
    proto = build(
        f"g (float[1,{inputs},7,7] x) => (float[?,?,?,?] y) {{ {lines} }}",
        W=draw(*shape, kernel, kernel),
        c=draw(outputs),
        **norm(inputs if before else outputs),
    )
    folded, _ = fold(proto)
    if not before:
        assert ops(folded) == [op]
    assert_same(proto, folded, {"x": draw(1, inputs, 7, 7)})
