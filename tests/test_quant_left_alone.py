"""quant: weights that are left alone, each with its reason."""

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.weights import find_weights

from models_by_text import (
    RNG,
    ROWS,
    Feed,
    build,
    draw,
    error,
    quant,
    reasons,
    same_numbers_in_any_order,  # noqa: F401
)


def alone(proto: ModelProto, feed: Feed, reason: str, **options: object) -> None:
    small, report = quant(proto, feed, **options)
    assert not report.modified
    assert small.SerializeToString(deterministic=True) == proto.SerializeToString(
        deterministic=True
    )
    assert reason in reasons(report)


PRODUCT = "g (float[4,96] x) => (float[?,?] y) { %s  y = MatMul (x, W) }"


@pytest.mark.parametrize(
    "line",
    [
        "W = DequantizeLinear (q, s)",
        "f = Cast <to=1> (q)  W = Mul (f, s)",
        "f = Cast <to=1> (q)  t = Transpose <perm=[0,1]> (f)  W = Mul (t, s)",
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_quantized_already_is_left_alone(line, bits):
    proto = build(PRODUCT % line, q=RNG.integers(-9, 9, (96, 64)).astype("int8"), s=np.float32(0.1))
    alone(proto, ROWS, "already quantized", bits=bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_hold_no_numbers_are_left_alone(number, bits):
    weight = draw(96, 64)
    weight[3, 3] = number
    alone(build(PRODUCT % "", W=weight), ROWS, "NaN or infinity", bits=bits)


def test_tables_beyond_half_precision_are_left_alone():
    table = draw(96, 64)
    table[3, 3] = 70_000
    proto = build("g (int64[4] i) => (float[?,?] y) { y = Gather (E, i) }", E=table)
    alone(proto, {"i": np.arange(4)}, "65504", bits=16)
    assert quant(proto, {"i": np.arange(4)}, bits=8)[1].modified


def test_a_weight_that_is_nothing_beside_the_others_is_not_worth_an_error():
    text = "g (float[4,1000] x) => (float[?,?] y) { a = MatMul (x, W)  y = MatMul (a, V) }"
    big = build(text, W=draw(1000, 1500), V=draw(1500, 8), U=draw(16, 16))
    big.graph.node.append(helper.make_node("MatMul", ["z", "U"], ["u"]))
    big.graph.input.append(helper.make_tensor_value_info("z", 1, [4, 16]))
    big.graph.output.append(helper.make_tensor_value_info("u", 1, [4, 16]))
    _, report = quant(big, {"x": draw(4, 1000), "z": draw(4, 16)}, bits=8)
    left = {entry.subject: entry.text for entry in report.skipped}
    assert left["U"].startswith("too small: 1024 bytes of")


@pytest.mark.parametrize("bits", [8, 16])
def test_an_old_operator_set_is_not_raised_for_nothing(bits):
    weight = draw(256, 256)
    weight[0, 0] = np.nan
    proto = build("g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }", opset=10, W=weight)
    alone(proto, {"x": draw(4, 256)}, "NaN", bits=bits)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_what_a_weight_is_called_decides_nothing(bits):
    for rows in range(8, 24):
        found = set()
        for name in ("W", "a_long_name_that_exporters_give"):
            text = f"g (float[4,16] x) => (float[?,?] y) {{ y = MatMul (x, {name}) }}"
            _, report = quant(build(text, **{name: draw(16, rows)}), {"x": draw(4, 16)}, bits=bits)
            found.add(tuple(entry.text for entry in (*report.changes, *report.skipped)))
        assert len(found) == 1


@pytest.mark.parametrize("bits", [8, 16])
def test_small_weights_are_left_alone(bits):
    proto = build("g (float[4,4] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(4, 4))
    alone(proto, {"x": draw(4, 4)}, "too small", bits=bits)


def test_half_precision_weights_are_sixteen_bits_already():
    proto = build(
        "g (float16[4,96] x) => (float16[?,?] y) { y = MatMul (x, W) }",
        W=draw(96, 64, dtype="float16"),
    )
    feed = {"x": draw(4, 96, dtype="float16")}
    alone(proto, feed, "already 16 bits", bits=16)


def test_a_weight_that_the_model_gives_out_is_left_alone():
    proto = build(
        "g (float[4,96] x) => (float[?,?] y, float[?,?] W) { y = MatMul (x, W) }", W=draw(96, 64)
    )
    alone(proto, ROWS, "gives it out", bits=8)


def test_a_weight_that_callers_may_override_is_left_alone():
    proto = build(
        "g (float[4,96] x, float[96,64] W) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(96, 64)
    )
    alone(proto, ROWS, "override", bits=8)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_model_without_weights_is_left_alone(bits):
    proto = build("g (float[4,96] x) => (float[?,?] y) { y = Relu (x) }")
    small, report = quant(proto, ROWS, bits=bits)
    assert not report.modified
    assert small == proto


def test_the_part_of_a_model_that_fits_is_quantized_and_the_rest_named():
    bad = draw(96, 64)
    bad[0, 0] = np.nan
    proto = build(
        "g (float[4,96] x) => (float[?,?] y, float[?,?] z) "
        "{ y = MatMul (x, W)  z = MatMul (x, V) }",
        W=draw(96, 64),
        V=bad,
    )
    small, report = quant(proto, ROWS, bits=8)
    assert [entry.subject for entry in report.changes if entry.subject in "VW"] == ["W"]
    assert [entry.subject for entry in report.skipped] == ["V"]
    left = [weight.name for weight in find_weights(from_proto(small))]
    assert left == ["V"]


def test_where_the_operator_set_is_too_old_for_few_bits_there_are_eight():
    """A node that cannot be raised: Upsample by a factor that is computed."""
    proto = build(
        """g (float[1,4,8,8] x, float[4] s) => (float[?,?,?,?] y) {
            a = Upsample(x, s)
            b = Conv<pads=[1,1,1,1]>(a, W)
            y = Relu(b)
        }""",
        opset=9,
        W=draw(64, 4, 3, 3),
    )
    feed = {"x": draw(1, 4, 8, 8), "s": np.array([1, 1, 2, 2], np.float32)}
    small, report = quant(proto, feed, bits=4)
    assert small.opset_import[0].version == 9
    assert "Upsample" in reasons(report)
    assert any(t.data_type == 3 for t in small.graph.initializer)  # int8
    assert error(proto, small, feed) < 0.02
