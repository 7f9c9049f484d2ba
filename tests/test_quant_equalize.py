"""quant: channels equalized between convolutions; in float nothing changes."""

import numpy as np
import pytest
from static_stretches import error, feeds, quant, weights

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes.quant.absorb import multiplied
from onnx_compress.passes.quant.spans import bias_of, find_spans
from onnx_compress.passes.quant.static import plans
from onnx_compress.passes.quant.static.equalize import Equalized, _multiply

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


UNLIKE = """g (float[1,8,12,12] x) => (float[?,?,?,?] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, w2, b2) s = Relu(c)
    d = Conv<pads=[1,1,1,1]>(s, w3) y = Relu(d) }"""


def unlike(spread):
    """Channels between the convolutions that are 2^-spread to 2^spread times what they could be."""
    stored = weights(w1=(64, 8, 3, 3), w2=(64, 64, 3, 3), w3=(64, 64, 3, 3), b1=(64,), b2=(64,))
    for maker, bias, reader in (("w1", "b1", "w2"), ("w2", "b2", "w3")):
        factor = np.float32(2.0) ** np.linspace(-spread, spread, 64).round().astype(np.float32)
        stored[maker] = stored[maker] * factor[:, None, None, None]
        stored[bias] = stored[bias] * factor
        stored[reader] = stored[reader] / factor[:, None, None]
    return build(UNLIKE, **stored)


def test_unlike_channels_are_made_alike_before_they_become_bytes(monkeypatch):
    proto, fit = unlike(4), feeds(1, 8, 12, 12, count=16)
    small, report = quant(proto, fit, activations="int8")
    assert "equalized" in " ".join(report.notes)
    monkeypatch.setattr(plans, "equalized", lambda found, *_: (found, Equalized(found.model)))
    plain, report = quant(proto, fit, activations="int8")
    assert "equalized" not in " ".join(report.notes)
    assert error(proto, small, fit) < 0.3 * error(proto, plain, fit)


def test_channels_that_are_alike_stay(monkeypatch):
    proto, fit = unlike(0), feeds(1, 8, 12, 12, count=16)
    small, report = quant(proto, fit, activations="int8")
    assert "equalized" not in " ".join(report.notes)
    monkeypatch.setattr(plans, "equalized", lambda found, *_: (found, Equalized(found.model)))
    plain, _ = quant(proto, fit, activations="int8")
    assert small.SerializeToString() == plain.SerializeToString()
