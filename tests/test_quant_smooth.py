"""quant: outliers of inputs moved into weights; means; padding; layers walked over."""

import dataclasses

import numpy as np
import onnx
import pytest

from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant

from models_by_text import all_ops, build, fold, ops, run

ALWAYS = dataclasses.replace(
    targets.load("avx512-vnni"), speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]}
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def wild(count=8):
    """Inputs of which two features are far larger than the rest."""
    size = np.ones(64, np.float32)
    size[[5, 40]] = 60
    return [{"x": draw(16, 64, seed=at) * size} for at in range(count)]


def product(op="MatMul(x, W)", **more):
    body = f"g (float[16,64] x) => (float[?,?] y, float[?,?] r) {{ y = {op} r = Relu(x) }}"
    return build(body, **{"W": draw(64, 48, seed=9), **more})


def quant(proto, fit, **options):
    model = from_proto(proto)
    report = Quant(bits=8, **options).run(model, Context(ALWAYS, fit[0], fit))
    invariants.check(model)
    return to_proto(model), report


def error(proto, small, feeds):
    pairs = [(run(proto, feed)[0], run(small, feed)[0]) for feed in feeds]
    noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return float(np.sqrt(noise / sum(float((a**2).sum()) for a, _ in pairs)))


@pytest.mark.parametrize(
    ("op", "turned"), [("MatMul(x, W)", False), ("Gemm<transB=1>(x, W)", True)]
)
def test_outliers_move_into_the_weight(op, turned):
    weight = draw(64, 48, seed=9)
    weight[[5, 40]] /= 60  # as networks do that have such features
    proto = product(op, W=weight.T.copy() if turned else weight)
    fit, held = wild(), wild(12)[8:]
    small, report = quant(proto, fit, least_db=0)
    assert "MatMulInteger" in all_ops(small)
    assert any("smoothed" in note for note in report.notes)
    plain = from_proto(proto)
    Quant(bits=8, least_db=0).run(plain, Context(ALWAYS, fit[0]))  # without data: not smoothed
    assert error(proto, small, held) < 0.5 * error(proto, to_proto(plain), held)


def test_what_else_reads_the_input_sees_it_as_it_was():
    proto, fit = product(), wild()
    small, _ = quant(proto, fit, least_db=0)
    assert np.array_equal(run(proto, fit[0])[1], run(small, fit[0])[1])


@pytest.mark.parametrize(("least_db", "smoothed"), [(0, True), (300, False)])
def test_products_of_one_input_are_smoothed_together_over_identity(least_db, smoothed):
    text = (
        "g (float[16,64] x) => (float[?,?] y, float[?,?] z) "
        "{ k = Identity (x)  y = MatMul (x, W)  z = MatMul (k, V) }"
    )
    proto = build(text, W=draw(64, 48, seed=9), V=draw(64, 48, seed=8))
    small, report = quant(proto, wild(), least_db=least_db)
    assert any(note.startswith("1 inputs") for note in report.notes) == smoothed
    assert ("Identity" in ops(small)) != smoothed  # it is as it was, or of no use any more


def test_nothing_is_left_where_the_product_stays_float():
    proto, fit = product(), wild()
    small, report = quant(proto, fit, activations="float")
    assert not any("smoothed" in note for note in report.notes)
    small, report = quant(proto, fit, least_db=90.0)
    assert "MatMulInteger" not in all_ops(small)
    assert not any("smoothed" in note for note in report.notes)
    assert error(proto, small, fit) < 0.02


def test_weights_that_are_multiplied_with_each_other_are_not_smoothed():
    """One of them turned and picked from elsewhere: a Mul behind it would be one of its numbers."""
    text = (
        "g (int64[16] i, float[16,64] x) => (float[?,?] y, float[?,?] z, float[?,?] k) "
        "{ k = Gather (V, i) t = Transpose<perm=[1,0]> (V) y = Gemm (t, W) z = MatMul (x, t) }"
    )
    big = np.where(np.isin(np.arange(64), (5, 40)), 60, 1).astype("f")
    proto = build(text, V=draw(64, 64, seed=8) * big[:, None], W=draw(64, 64, seed=9))
    fit = [{"i": np.arange(16), "x": draw(16, 64, seed=at)} for at in range(4)]
    small, report = quant(proto, fit, least_db=0)
    assert error(proto, small, fit) < 0.1
    assert not any("smoothed" in note for note in report.notes)


def test_products_of_one_input_share_the_scales():
    proto = build(
        "g (float[16,64] x) => (float[?,?] y) { a = MatMul(x, W) b = MatMul(x, V) y = Add(a, b) }",
        W=draw(64, 48, seed=1),
        V=draw(64, 48, seed=2),
    )
    small, _ = quant(proto, wild(), least_db=0)
    assert ops(small).count("DynamicQuantizeLinear") == 1
    assert error(proto, small, wild()) < 0.05


# ------------------------------------------------------------------------------------- padding

PADDED = """g (float[1,2,8,8] x) => (float[?,?,?,?] y) {
    p = Pad<mode="constant">(x, pads, zero) y = Conv<pads=[1,0,0,2]>(p, W) }"""


def padded(pads, value=0.0, body=PADDED):
    numbers = {"pads": np.array(pads, np.int64), "zero": np.float32(value)}
    return build(body, **numbers, W=draw(3, 2, 3, 3))


def test_padding_goes_into_the_convolution():
    proto = padded([0, 0, 1, 2, 0, 0, 3, 4])
    small, report = fold(proto)
    assert ops(small) == ["Conv"]
    (conv,) = small.graph.node
    assert list(onnx.helper.get_attribute_value(conv.attribute[0])) == [2, 2, 3, 6]
    feed = {"x": draw(1, 2, 8, 8)}
    assert np.allclose(run(proto, feed)[0], run(small, feed)[0], atol=1e-5)
    assert report.modified


@pytest.mark.parametrize("window", [(17, 3), (3, 1)])
def test_padding_of_long_windows_and_columns_stays(window):
    text = "g (float[1,2,32,32] x) => (float[?,?,?,?] y) { p = Pad(x, pads) y = Conv(p, W) }"
    pads = np.array([0, 0, 1, 0, 0, 0, 1, 0], np.int64)
    assert "Pad" in ops(fold(build(text, pads=pads, W=draw(3, 2, *window)))[0])
    assert "Pad" not in ops(fold(build(text, pads=pads, W=draw(3, 2, 3, 3)))[0])


@pytest.mark.parametrize(
    "proto",
    [
        padded([0, 0, 1, 1, 0, 0, 1, 1], value=1.0),
        padded([0, 0, -1, 1, 0, 0, 1, 1]),
        padded([0, 0, 1, 1, 0, 0, 1, 1], body=PADDED.replace("constant", "reflect")),
        padded(
            [0, 0, 1, 1, 0, 0, 1, 1], body=PADDED.replace("pads=[1,0,0,2]", 'auto_pad="SAME_UPPER"')
        ),
        padded([0, 0, 1, 1, 0, 0, 1, 1], body=PADDED.replace("y = Conv", "y = Relu(p) z = Conv")),
    ],
    ids=["value", "cut", "reflect", "auto_pad", "read twice"],
)
def test_other_padding_stays(proto):
    assert "Pad" in ops(fold(proto)[0])
