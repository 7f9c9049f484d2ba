"""The command line on the oldest operators that the runtime has, and the newest."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper

from models_by_text import (
    build,
    draw,
    run,
    same_numbers_in_any_order,  # noqa: F401
)
from odd_runs import (
    ONE_LAYER,
    QUANT,
    compressed,
    left_alone,
    near,
    place,  # noqa: F401
    refused,
)

IMAGE = "g (float[1,8,6,6] x) => (float[1,8,6,6] y)"
CONV = "Conv <kernel_shape=[3,3], pads=[1,1,1,1]>"
NORM, FIVE = "BatchNormalization", "(h, s, o, m, v)"
ROWS = "g (float[2,96] x) => (float[2,96] y)"
OLD = {
    "MatMul": ROWS + "{ y = MatMul (x, W) }",
    "Gather": "g (int64[3] i) => (float[3,96] y) { y = Gather (W, i) }",
    "Reshape": "g (float[2,48,2] x) => (float[2,96] y)"
    "{ h = Reshape <shape=[2,96]> (x)  y = MatMul (h, W) }",
    "Gemm": ROWS + "{ y = Gemm <broadcast=1> (x, W, b) }",
    "Add": ROWS + "{ h = MatMul (x, W)  y = Add <broadcast=1, axis=1> (h, b) }",
    "Dropout": ROWS + "{ h = MatMul (x, W)  d = Dropout <is_test=1> (h)  y = MatMul (d, W) }",
    "Relu": ROWS + "{ h = MatMul (x, W)  y = Relu <consumed_inputs=[0]> (h) }",
    "Clip": ROWS + "{ h = MatMul (x, W)  y = Clip <min=-1.0, max=6.0> (h) }",
    "Softmax": ROWS + "{ h = MatMul (x, W)  y = Softmax (h) }",
    "Conv": IMAGE + f"{{ y = {CONV} (x, K) }}",
    "Pad": IMAGE + "{ h = Pad <pads=[0,0,1,1,0,0,1,1]> (x)  y = Conv <kernel_shape=[3,3]> (h, K) }",
    "BatchNormalization": IMAGE + f"{{ h = {CONV} (x, K)  y = {NORM} <is_test=1> {FIVE} }}",
    "BatchNormalization, consumed": IMAGE
    + f"{{ h = {CONV} (x, K)  y = {NORM} <is_test=1, consumed_inputs=[0,0,0,1,1]> {FIVE} }}",
}


def old(name: str, opset: int) -> ModelProto | None:
    """None where the runtime does not have these operators."""
    text = OLD[name]
    arrays = {"W": draw(96, 96), "b": draw(96), "K": draw(8, 8, 3, 3)}
    arrays |= {"s": draw(8), "o": draw(8), "m": draw(8), "v": np.abs(draw(8)) + 0.5}
    body = text.partition("{")[2]
    used = {key: a.astype("float32") for key, a in arrays.items() if re.search(rf"\b{key}\b", body)}
    proto = build(text, opset=opset, ir=3, **used)
    for tensor in proto.graph.initializer:  # version three lists weights as inputs, too
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(proto.SerializeToString(), options)
    except Exception:  # the runtime raises several kinds
        return None
    return proto


@pytest.mark.parametrize("opset", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("name", OLD)
def test_old_operators_work_where_the_runtime_has_them(capsys, name, opset):
    proto = old(name, opset)
    if proto is None:
        text = OLD[name]
        proto = build(text, opset=opset, ir=3, W=draw(96, 96))
        error, _ = refused(capsys, 3, proto, *QUANT)
        assert "ONNXRuntimeError" in error
        return
    result, report = compressed(proto, *QUANT)
    (given,) = (p for p in proto.graph.input if p.name in ("x", "i"))
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    feed = {"i": np.arange(3)} if name == "Gather" else {"x": draw(*shape)}
    for r, y in zip(run(proto, feed), run(result, feed), strict=True):
        assert np.linalg.norm(y - r) < 0.02 * np.linalg.norm(r)
    assert report["size"]["ratio"] > 1.5 or left_alone(report) != "[[], []]"


def test_the_newest_operator_set_that_the_runtime_takes_works():
    taken = []
    for opset in range(17, onnx.defs.onnx_opset_version() + 1):
        proto = build(ONE_LAYER, opset=opset, ir=8, W=draw(96, 96))
        try:
            run(proto, {"x": draw(2, 96)})
        except Exception:  # of the runtime
            break
        taken.append(proto)
    result, report = compressed(taken[-1], *QUANT)
    assert report["size"]["ratio"] > 3
    assert result.opset_import[0].version == taken[-1].opset_import[0].version
    near(taken[-1], result, {"x": draw(2, 96)})
