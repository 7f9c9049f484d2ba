"""quant: channels equalized between convolutions; in float nothing changes."""

import numpy as np
import pytest

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes.quant.absorb import multiplied
from onnx_compress.passes.quant.spans import bias_of, find_spans
from onnx_compress.passes.quant.static.equalize import _multiply

from models_by_text import build, draw, run

STORED = {
    "w": draw(8, 3, 3, 3),
    "v": draw(8, 8, 1, 1),
    "d": draw(8, 1, 3, 3),
    "b": draw(8),
}
BODIES = {  # and how many spans there are
    "a = Conv(x, w, b) r = Relu(a) y = Conv(r, v)": 1,
    "a = Conv(x, w, b) r = LeakyRelu(a) e = Conv<group=8>(r, d) y = Conv(e, v)": 2,
    "a = Conv(x, w) e = Conv(a, v, b) s = Add(a, e) r = Relu(s) y = Conv(r, v2)": 1,
    "a = Conv(x, w) p = MaxPool<kernel_shape=[2,2]>(a) f = Flatten(p) y = MatMul(f, mt)": 1,
    "a = Conv(x, w, b) r = Sigmoid(a) y = Conv(r, v)": 0,
    "a = Conv(x, w, b) r = Clip(a, low, high) y = Conv(r, v)": 0,
    "a = Conv(x, w, b) r = Relu(a) e = Conv(r, v) y = Add(e, r)": 0,
    "a = Conv(x, w, b) e = Conv(a, v) g = Conv(e, v) y = Add(e, g)": 0,
}


@pytest.mark.parametrize("body", BODIES)
def test_factors_run_through_a_span_and_change_nothing(body):
    more = {"low": np.float32(0), "high": np.float32(6), "v2": draw(8, 8, 1, 1)}
    stored = {**STORED, **more, "mt": draw(648, 5)}
    words = body.replace(",", " ").replace("(", " ").replace(")", " ").split()
    text = f"g (float[1,3,12,12] x) => (float[?,?,?,?] y) {{ {body} }}"
    if "MatMul" in body:
        text = text.replace("float[?,?,?,?] y", "float[?,?] y")
    proto = build(text, **{name: array for name, array in stored.items() if name in words})
    feed = {"x": draw(1, 3, 12, 12)}
    model = from_proto(proto)
    found = find_spans(model, list(find_weights(model)), Shapes(model, feed))
    assert len(found) == BODIES[body]
    for at, span in enumerate(found):
        scale = 2.0 ** np.random.default_rng(at).integers(-4, 5, span.size)
        _multiply(span, scale)
        places = [p for w in dict.fromkeys(span.makers) if (p := bias_of(model, w)) is not None]
        multiplied(model, places, 1 / scale)
    np.testing.assert_allclose(run(proto, feed)[0], run(to_proto(model), feed)[0], 1e-5, 1e-5)
