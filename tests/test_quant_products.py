"""quant: where products are of integers, and the operator sets that they need."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from onnx_compress import compress
from onnx_compress.ir.errors import VerificationError
from onnx_compress.passes import target as targets

from models_by_text import (
    FAST,
    ROWS,
    all_ops,
    build,
    draw,
    embedding,
    error,
    quant,
    reasons,
    same_numbers_in_any_order,  # noqa: F401
)


def test_products_are_integer_where_the_target_is_faster_so():
    proto = build("g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(256, 256))
    feed = {"x": draw(4, 256)}
    assert "MatMulInteger" in all_ops(quant(proto, feed, bits=8)[0])
    slow = dataclasses.replace(FAST, speed={"dynamic": [[1, 1, 0.5, 0.5, 0.5]]})
    assert "MatMulInteger" not in all_ops(quant(proto, feed, slow, bits=8)[0])


def test_two_products_of_one_input_quantize_it_once():
    proto = build(
        "g (float[4,256] x) => (float[?,?] y) { a = MatMul (x, W)  b = MatMul (x, V)  "
        "y = Add (a, b) }",
        W=draw(256, 256),
        V=draw(256, 256),
    )
    small, _ = quant(proto, {"x": draw(4, 256)}, bits=8)
    found = [node.op_type for node in small.graph.node]
    assert found.count("MatMulInteger") == 2
    assert found.count("DynamicQuantizeLinear") == 1


def codes_of(proto: ModelProto) -> np.ndarray:
    arrays = [
        numpy_helper.to_array(t).reshape(-1)
        for t in proto.graph.initializer
        if t.data_type == onnx.TensorProto.INT8
    ]
    return np.concatenate(arrays).astype(int)


@pytest.mark.parametrize(("target", "most"), [("avx2", 128), ("avx512-vnni", 254)])
def test_codes_keep_out_of_saturation_where_products_saturate(target, most):
    proto = build("g (float[4,256] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(256, 256))
    feed = {"x": draw(16, 256)[:4]}
    sure = dataclasses.replace(targets.load(target), speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]})
    small, _ = quant(proto, feed, sure, bits=8)
    assert "MatMulInteger" in all_ops(small)
    codes = codes_of(small).reshape(256, 256)
    assert (np.abs(codes[::2] + codes[1::2])).max() <= most
    assert np.abs(codes).max() > 100


def test_a_saturating_target_still_uses_eight_bits_where_nothing_is_multiplied():
    proto, feed = embedding()
    small, _ = quant(proto, feed, targets.load("avx2"), bits=8)
    assert np.abs(codes_of(small)).max() == 127


def test_inputs_with_outliers_stay_float():
    proto = build("g (float[64,512] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(512, 256))
    plain = draw(64, 512)
    wild = plain.copy()
    wild[0, 7] = 1000
    assert "MatMulInteger" in all_ops(quant(proto, {"x": plain}, bits=8)[0])
    small, _ = quant(proto, {"x": wild}, bits=8)
    assert "MatMulInteger" not in all_ops(small)
    assert error(proto, small, {"x": wild}) < 0.02


# -------------------------------------------------------------------------------- operator sets


def test_an_old_operator_set_is_raised_where_a_form_needs_it():
    proto = build(
        "g (float[1,256] x) => (float[?,?] y) { h = MatMul (x, W)  s = Squeeze <axes=[0]> (h)"
        "  y = Unsqueeze <axes=[0]> (s) }",
        opset=10,
        W=draw(256, 256),
    )
    feed = {"x": draw(1, 256)}
    wanted = dataclasses.replace(FAST, speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]]})
    small, report = quant(proto, feed, wanted, bits=8)
    assert "MatMulInteger" in all_ops(small)
    assert small.opset_import[0].version >= 11
    assert any("raised from 10" in entry.text for entry in report.changes)
    assert error(proto, small, feed) < 0.03


def test_where_it_cannot_be_raised_the_codec_is_chosen_and_the_reason_given():
    proto = build(
        "g (float[4,256] x, float[2] s) => (float[?,?] y, float[?,?] z) { y = MatMul (x, W)  "
        'z = Upsample <mode="nearest"> (x, s) }',
        opset=9,
        W=draw(256, 256),
    )
    feed = {"x": draw(4, 256), "s": np.float32([1, 2])}
    small, report = quant(proto, feed, bits=8)
    assert small.opset_import[0].version == 9
    assert "MatMulInteger" not in all_ops(small)
    assert report.modified
    assert "Upsample" in reasons(report)
    assert error(proto, small, feed) < 0.02


@pytest.mark.parametrize("bits", [8, 16])
def test_operator_set_eleven_is_enough_for_what_it_has(bits):
    proto = build(
        "g (float[4,96] x) => (float[?,?] y) { h = MatMul (x, W)  y = Softmax <axis=0> (h) }",
        opset=11,
        W=draw(96, 64),
    )
    small, report = quant(proto, ROWS, bits=bits)
    assert report.modified
    assert small.opset_import[0].version == 11
    assert error(proto, small, ROWS) < 0.1


def test_activations_stay_float_where_bytes_would_break_the_error():
    """Small numbers beside large ones count after a logarithm; weights have their eight bits."""
    proto = build(
        "g (float[?,256] x) => (float[?,?] y) { a = MatMul (x, W)  b = Abs (a)  y = Log (b) }",
        W=np.abs(draw(256, 256)),
    )
    size = np.where(np.arange(16) == 0, 3e3, 1.0)[:, None]
    feeds = [{"x": (np.abs(draw(16, 256)) * size).astype("float32")} for _ in range(8)]
    report = compress(proto, "quant(bits=8)", feeds, target="avx2", measure=False).report
    taken, refused = report.stages[-1].setting, report.stages[-1].report.skipped
    assert taken.activations == "float"
    assert report.stages[-1].error < 0.15
    assert refused[0].subject == "quant(bits=8)"
    with pytest.raises(VerificationError, match="infinity"):  # the logarithm of zero
        compress(proto, "quant(bits=8,activations='int8')", feeds, target="avx2", measure=False)


def test_where_weights_break_the_error_products_take_bytes_all_the_same():
    weight = draw(256, 256)
    weight[0] = 1e4  # beside which eight bits are nothing
    proto = build("g (float[?,256] x) => (float[?,?] y) { y = MatMul (x, W) }", W=weight)
    feeds = [{"x": draw(16, 256) * (np.arange(256) > 0)} for _ in range(8)]
    feeds = [{"x": feed["x"].astype("float32")} for feed in feeds]
    report = compress(proto, "quant(bits=8)", feeds, target="avx2", measure=False).report
    assert report.stages[-1].error > 0.15
    assert report.stages[-1].setting.activations is None
