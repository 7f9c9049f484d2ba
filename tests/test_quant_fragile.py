"""quant: few weights of 16 bits where eight are too few for these alone."""

import numpy as np
import pytest
from onnx import ModelProto

from onnx_compress import compress
from onnx_compress.ir.graph import Model, kinds
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes.quant.fragile import _Rounded, fragile

from models_by_text import build, draw

NET = """g (float[?,64] x) => (float[?,?] y) {
    a = MatMul (x, first)
    b = Relu (a)
    c = MatMul (b, second)
    d = Relu (c)
    y = MatMul (d, third)
}"""
ALLOWED = 0.05


def net(*bad: str) -> tuple[ModelProto, list[dict[str, np.ndarray]]]:
    """A model whose weights `bad` have one number in each row that eight bits are too few beside.

    What it is multiplied by is zero, so that all else decides.
    """
    numbers = {name: draw(64, 64) / 8 for name in ("first", "second", "third")}
    for name in bad:
        numbers[name][0] = 500.0
    for name, after in (("first", "second"), ("second", "third")):
        if after in bad:
            numbers[name][:, 0] = 0.0
    feeds = [{"x": np.abs(draw(4, 64)) * (np.arange(64) > 0)} for _ in range(16)]
    return build(NET, **numbers), [{"x": feed["x"].astype(np.float32)} for feed in feeds]


def names(*bad: str) -> tuple[str, ...]:
    proto, feeds = net(*bad)
    model: Model = kinds.read(proto)[0]
    found = fragile(model, list(find_weights(model)), feeds[:4], ALLOWED)
    return tuple(weight.name for weight in found)


@pytest.mark.parametrize("bad", [("first",), ("second",), ("third",)])
def test_the_one_that_makes_the_error_is_found(bad):
    assert names(*bad) == bad


@pytest.mark.parametrize("bad", [(), ("first", "third"), ("first", "second", "third")])
def test_none_where_none_or_most_of_the_model_is(bad):
    assert names(*bad) == ()


def test_without_bits_they_keep_sixteen_and_the_rest_has_eight():
    proto, feeds = net("second")
    result = compress(proto, "quant", calibration=feeds, max_error=ALLOWED, measure=False)
    setting = result.report.stages[-1].name
    assert "keep={'second': 16}" in setting
    assert result.report.stages[-1].error <= ALLOWED
    kept = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    assert sum(kind == 3 for kind in kept.values()) == 2  # int8 codes


def test_keep_of_the_user_is_kept():
    proto, feeds = net("second")
    passes = "quant(keep={'first': 16})"
    result = compress(proto, passes, calibration=feeds, max_error=ALLOWED, measure=False)
    assert "'first': 16" in result.report.stages[-1].name
    assert "'second': 16" in result.report.stages[-1].name


def test_an_error_that_is_spread_is_given_up_after_a_few_looks(monkeypatch):
    names = [f"w{number}" for number in range(32)]
    parts = "".join(f"m{name} = MatMul (x, {name})\n" for name in names)
    made = ", ".join(f"m{name}" for name in names)
    text = f"g (float[?,16] x) => (float[?,?] y) {{ {parts} y = Sum ({made}) }}"
    model: Model = kinds.read(build(text, **{name: draw(16, 16) for name in names}))[0]
    looks: list[int] = []
    square = _Rounded.square
    monkeypatch.setattr(
        _Rounded, "square", lambda self, weights: looks.append(1) or square(self, weights)
    )
    feeds = [{"x": draw(4, 16).astype(np.float32)} for _ in range(4)]
    assert fragile(model, list(find_weights(model)), feeds, 1e-3) == []
    assert len(looks) <= 20  # of 63
