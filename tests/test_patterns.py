"""Patterns and evaluation: what is found, or why not."""

import numpy as np

from onnx_compress.ir.graph.evaluate import evaluate
from onnx_compress.ir.graph.patterns import constant_inputs, producer, sole_consumer, unshared

from graphs import node, value, view


def test_patterns_say_what_they_found_or_why_not():
    model = view("""g (bool c, float[2] x) => (float[2] y, float[2] e)
        <float[2] w = {1, 2}, float[2] v = {1, 2}> {
        a = Neg(x)  b = Abs(a)  p = Exp(b)  q = Exp(b)  e = Relu(p)  k = Add(q, w)  f = Sub(k, v)
        s = Sum(f, v)  m = Sign(s)
        y = If (c) <then_branch = t () => (float[2] r) { r = Neg(m) },
                    else_branch = u () => (float[2] r) { r = Neg(x) }>
    }""")
    assert sole_consumer(value(model, "a"), "Abs", "Neg") is value(model, "b").producer
    reasons = {
        "a": "followed by Abs", "b": "2 uses", "e": "given out", "m": "branch"
    }  # fmt: skip
    for name, reason in reasons.items():
        found = sole_consumer(value(model, name), "Exp", "Neg")
        assert not found
        assert reason in found.reason
    assert producer(value(model, "b"), "Abs") is value(model, "b").producer
    assert "preceded by Abs" in producer(value(model, "b"), "Neg").reason
    assert "nothing makes" in producer(value(model, "x"), "Neg").reason
    assert not producer(None, "Neg")
    (found,) = constant_inputs(model, node(model, "Add"), 1)
    assert found.tolist() == [1, 2]
    assert "input 0 of Add" in constant_inputs(model, node(model, "Add"), 0, 1).reason
    assert unshared(model, value(model, "w")) is value(model, "w")
    assert "shared" in unshared(model, value(model, "v")).reason
    assert "not constant" in unshared(model, value(model, "x")).reason
    assert not unshared(model, None)


def test_a_node_of_constants_is_evaluated_and_what_fails_is_none():
    model = view("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Clip(w, , w)  b = Reshape(w, w)  y = Add(x, a)  l, r = Split<axis = 0>(w) }""")
    w = np.float32([1, 5])
    assert evaluate(model, node(model, "Clip"), [w, None, np.float32(2)])[0].tolist() == [1, 2]
    assert [a.tolist() for a in evaluate(model, node(model, "Split"), [w])] == [[1], [5]]
    assert evaluate(model, node(model, "Reshape"), [w, np.int64([7])]) is None
