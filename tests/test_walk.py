"""Walk: what it reaches is what a run gives, whatever was edited ahead of it."""

import numpy as np
import pytest

from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime.walk import Walk
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.statistics.covariance import Covariance
from onnx_compress.passes.statistics.request import Look

from graphs import BRANCHES, HEAD, array, node, parsed, run, value, view

CHAIN = """(float[N,4] x) => (float[N,4] y) {
    a = MatMul(x, W) b = Relu(a) c = MatMul(b, V) y = Add(c, a) }"""


def chain():
    return view(CHAIN, W=array(4, 4), V=array(4, 4))


def test_values_are_those_of_a_run():
    model = chain()
    feeds = [{"x": array(3, 4)}, {"x": array(5, 4)}]
    walk = Walk(model, feeds)
    for name in ("a", "c", "y"):
        walk.reach([value(model, name)])
    for at, feed in enumerate(feeds):
        assert np.allclose(walk.value(value(model, "y"), at), run(model, **feed)[0], atol=1e-5)
        assert walk.value(value(model, "W"), at).shape == (4, 4)


def test_weights_ahead_may_be_changed_and_what_was_run_stays():
    model = chain()
    feed = {"x": array(3, 4)}
    walk = Walk(model, [feed])
    walk.reach([value(model, "b")])
    old = walk.value(value(model, "b"), 0).copy()
    model.set_constant(value(model, "W"), np.zeros((4, 4), "f"))
    model.set_constant(value(model, "V"), np.eye(4, dtype="f"))
    walk.reach([value(model, "c")])
    assert np.allclose(walk.value(value(model, "c"), 0), old, atol=1e-6)


def test_branches_run_as_part_of_their_node():
    model = from_proto(parsed(HEAD + BRANCHES))
    feed = {"c": np.array(True), "x": array(2)}
    walk = Walk(model, [feed])
    walk.reach([value(model, "h")])
    walk.reach([value(model, "y")])
    assert np.allclose(walk.value(value(model, "y"), 0), run(model, **feed)[0])


def test_a_covariance_is_that_of_the_positions():
    model = view("(float[2,3,4,4] x) => (float[?,?,?,?] y) { y = Relu(x) }")
    tap = Tap(node(model, "Relu"), 0)
    sums = Covariance(tap, 1).start(Look())
    samples = [array(2, 3, 4, 4) for _ in range(3)]
    for x in samples:
        sums.add({tap: x}, None)
    found = sums.result()
    rows = np.concatenate([x.transpose(0, 2, 3, 1).reshape(-1, 3) for x in samples])
    assert np.allclose(found.mean, rows.mean(0), atol=1e-6)
    assert np.allclose(found.matrix, np.cov(rows.T, bias=True), atol=1e-6)
    assert (found.rows, found.samples) == (96, 3)


def test_what_is_computed_from_constants_is_reached_too():
    model = view(
        "(float[N,4] x) => (float[N,4] y) { t = Transpose(W) u = Gemm(t, V) y = MatMul(x, u) }",
        W=array(4, 4),
        V=array(4, 4),
    )
    walk = Walk(model, [{"x": array(3, 4)}])
    walk.reach([value(model, "t")])
    assert np.array_equal(walk.value(value(model, "t"), 0), model.constant(value(model, "W")).T)
    walk.reach([value(model, "u"), value(model, "y")])
    assert walk.value(value(model, "y"), 0).shape == (3, 4)


CONVOLUTIONS = """(float[1,3,6,6] x) => (float[?,?,?,?] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) s = Add(b, r) y = Conv(s, w3) }"""


def test_a_node_may_come_between_those_that_are_computed_from_constants():
    model = view(
        "(float[2,4] x) => (float[2,4] y) { a = MatMul(W, V) b = Relu(a) y = Mul(x, b) }",
        W=array(2, 4),
        V=array(4, 4),
    )
    feed = {"x": array(2, 4)}
    walk = Walk(model, [feed])
    walk.reach([value(model, "a")])
    add = model.add_node(model.graph, "Add", [value(model, "a"), value(model, "a")], stem="a")
    model.replace_uses(value(model, "a"), add, only=lambda reader: reader.op == "Relu")
    walk.reach([value(model, "y")])
    assert np.allclose(walk.value(value(model, "y"), 0), run(model, **feed)[0], atol=1e-5)


def test_a_node_whose_output_was_seen_may_still_be_changed():
    model = view(CONVOLUTIONS, w1=array(4, 3, 1, 1), w2=array(4, 4, 1, 1), w3=array(2, 4, 1, 1))
    feeds = [{"x": array(1, 3, 6, 6)} for _ in range(3)]
    walk = Walk(model, feeds, optimize=False)
    for conv in [found for found in model.graph.sorted() if found.op == "Conv"]:
        before = list(walk.outputs(conv))
        weight = conv.inputs[1]
        model.set_constant(weight, 2 * model.constant(weight))
        assert len(before) == 3
    for feed, last in zip(feeds, before, strict=True):
        assert np.allclose(2 * last, run(model, **feed)[0], rtol=1e-4, atol=1e-4)
    walk.reach(model.outputs())  # what the last one reads is still there
    for at, feed in enumerate(feeds):
        whole = run(model, **feed)[0]
        assert np.allclose(walk.value(value(model, "y"), at), whole, rtol=1e-4, atol=1e-4)


def test_what_is_quantized_waits_as_bytes():
    model = view(
        "(float[N,4] x) => (float[N,4] y) { q = QuantizeLinear(x, s, z) "
        "d = DequantizeLinear(q, s, z) a = MatMul(d, W) b = MatMul(a, V) y = Add(b, d) }",
        W=array(4, 4),
        V=array(4, 4),
        s=np.float32(0.1),
        z=np.uint8(128),
    )
    feed = {"x": array(3, 4)}
    walk = Walk(model, [feed], optimize=False)
    walk.reach([value(model, "a")])
    assert walk.value(value(model, "q"), 0).dtype == np.uint8
    with pytest.raises(KeyError):
        walk.value(value(model, "d"), 0)
    walk.reach([value(model, "y")])
    assert np.allclose(walk.value(value(model, "y"), 0), run(model, **feed)[0], atol=1e-5)
    with pytest.raises(KeyError):  # nobody needs it any more
        walk.value(value(model, "q"), 0)
