"""Executed: the runtime's low-bit nodes against our kernels, and faults of a runtime played."""

from functools import partial
from itertools import product
from random import Random

import numpy as np
import pytest

from onnx_compress.bench.planted.executed import KINDS, Faulty
from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import clone, save
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.runtime.optimized import optimized
from onnx_compress.ir.runtime.watch import Watch
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import thin_out
from onnx_compress.passes.verify import executed as module
from onnx_compress.passes.verify.executed import executed
from onnx_compress.passes.verify.finding import Severity
from onnx_compress.passes.verify.recompute import RECOMPUTED, Way, fit

from coded_weights import coded
from graphs import array, view
from low_bit_nodes import F32, NODES, blocks, checked, codes, floats, one_node, scalar


@pytest.mark.parametrize("name", NODES)
def test_the_runtime_gives_what_our_kernels_give(name):
    model, feed = NODES[name]()
    found = checked(model, feed)
    (node,) = found.nodes
    assert node.result in ("exact", "within"), node
    assert node.result == "exact" or "QLinear" in name
    assert not found.findings


@pytest.mark.parametrize(
    ("bits", "size", "level", "zeros"), [*product((2, 4, 8), (32, 64), (0, 4), (False, True))]
)
def test_blocks_of_few_bits_are_within_rounding(bits, size, level, zeros):
    model, feed = blocks(bits, size, level, zeros)
    (node,) = checked(model, feed).nodes
    assert node.result in ("exact", "within")
    assert not node.text


def test_a_product_that_must_not_round_its_input_is_told_from_one_that_may():
    model, feed = blocks(4, 32, 4, False)
    rounded = Session(model).run(feed)
    plain, _ = blocks(4, 32, 0, False)
    (node,) = plain.graph.nodes
    stored = [model.constant(value) for value in next(iter(model.graph.nodes)).inputs[1:]]
    (way,) = RECOMPUTED[node.op](node, [feed["i0"], *stored])
    assert not fit(way, rounded).holds


def saturating() -> bool:
    """Whether this processor does."""
    model, feed = extreme()
    exact = feed["i0"].astype(np.int64) @ np.full((64, 3), 127)
    return not np.array_equal(Session(model).run(feed)[0], exact)


def extreme():
    """Sums of two products that leave 16 bits."""
    return one_node(
        "MatMulInteger", [np.full((2, 64), 255, np.uint8), np.full((64, 3), 127, np.int8)]
    )


def test_saturation_is_a_warning_where_the_processor_saturates():
    model, feed = extreme()
    found = checked(model, feed)
    (node,) = found.nodes
    if saturating():
        assert node.result == "saturated"
        (finding,) = found.findings
        assert finding.severity == Severity.WARNING
        assert finding.where == "the node"
    else:
        assert node.result == "exact"


def test_saturated_sums_are_known_on_every_processor():
    """What AVX2 without VNNI gives, written down: two products at a time, clipped to 16 bits."""
    model, feed = extreme()
    (node,) = model.graph.nodes
    stored = model.constant(node.inputs[1])
    exact, clipped = RECOMPUTED["MatMulInteger"](node, [feed["i0"], stored])
    assert (exact.outputs[0] == 64 * 255 * 127).all()
    assert (clipped.outputs[0] == 32 * 32767).all()
    assert clipped.warns


def test_small_weights_do_not_saturate():
    model, feed = one_node(
        "MatMulInteger", [codes(np.uint8, 4, 64), codes(np.int8, 64, 9, high=63)]
    )
    (node,) = model.graph.nodes
    low = np.clip(model.constant(node.inputs[1]), -63, 63)
    ways = list(RECOMPUTED["MatMulInteger"](node, [feed["i0"], low]))
    assert len(ways) == 1


BODY = "{ h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"


def compressed(reader: str = "dynamic", text: str = f"(float[N,48] x) => (float[N,20] y) {BODY}"):
    model = view(text, w=array(48, 32), v=array(32, 20))
    for weight in find_weights(model):
        coded(weight, reader).emit(weight)
    return model, {"x": floats(6, 48)}


@pytest.mark.parametrize("reader", ["dynamic", "dequantize"])
def test_fused_nodes_are_recomputed_as_they_run(reader):
    model, feed = compressed(reader)
    found = checked(model, feed, {"x": floats(3, 48)})
    assert len(found.nodes) == 2
    assert found.count("exact") + found.count("within") == 2
    assert not found.findings


def test_codes_that_are_put_together_at_load_are_compared_as_codes():
    """Of what was pruned before: zeros are not stored, and products read bytes."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((96, 96)) * (rng.random((96, 96)) > 0.9)
    model = view("(float[N,96] x) => (float[N,96] y) { y = MatMul(x, w) }", w=numbers.astype("f"))
    (weight,) = find_weights(model)
    coded(weight, "dynamic").emit(weight)
    thin_out(model, [weight.value for weight in find_weights(model)])
    assert "ScatterElements" in {node.op for node in model.graph.nodes}
    found = checked(model, {"x": floats(6, 96)})
    assert found.decoded == 1
    assert not found.findings


def test_codes_and_zeros_may_be_summed_apart():
    """What cancels then is rounded in proportion to both: codes near their zero."""
    codes = np.full((16, 64), 129, np.uint8)
    codes[:, ::7] = 128
    x = floats(4, 64) + 3
    scale = np.full((16, 2), 0.01, np.float32)
    model = view(
        "(float[N,64] x) => (float[N,16] y) "
        "{ y = com.microsoft.MatMulNBits <K=64, N=16, bits=8, block_size=32> (x, q, s) }",
        q=codes.reshape(16, 2, 32),
        s=scale.reshape(-1),
    )
    (node,) = model.graph.nodes
    (way, *_) = RECOMPUTED[node.op](node, [x, codes.reshape(16, 2, 32), scale.reshape(-1)])
    (right,) = way.outputs
    apart = (x @ codes.T.astype("f") - 128 * x.sum(1, keepdims=True)) * np.float32(0.01)
    assert not np.array_equal(right, apart)
    assert fit(way, [apart]).holds
    assert not fit(way, [right * np.float32(1.01)]).holds


def test_weights_in_a_file_of_their_own_are_found_again(tmp_path, monkeypatch):
    """The graph that the runtime writes must not refer to the file that the model came with."""
    model, feed = compressed("dynamic")
    save(model, tmp_path / "m.onnx", external=True)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("onnx_compress.ir.runtime.session._IN_MEMORY", 0)
    for given in (tmp_path / "m.onnx", model):
        ran = optimized(given, feed)
        found = executed(model, ran, [feed])
        assert found.count("exact") == len(found.nodes) == 2
        assert not found.findings


def test_weights_that_are_decoded_at_load_are_compared():
    model, feed = compressed("codec")
    found = checked(model, feed)
    assert found.decoded == 2
    assert not found.nodes
    assert not found.findings


def test_nodes_in_branches_and_loops_are_recomputed():
    text = """(int64 n, bool c, float[4,24] x) => (float[4,24] y) {
        l = Loop(n, , x) <body = b (int64 j, bool go, float[4,24] s) => (bool on, float[4,24] o) {
            on = Identity(go)  h = MatMul(s, w)  o = Tanh(h) }>
        y = If (c) < then_branch = t () => (float[4,24] a) { a = MatMul(l, v) },
                     else_branch = e () => (float[4,24] a) { a = Neg(l) }> }"""
    model = view(text, w=array(24, 24), v=array(24, 24))
    for weight in find_weights(model):
        coded(weight, "dynamic").emit(weight)
    feed = {"n": np.array(3), "c": np.array(True), "x": floats(4, 24)}
    found = checked(model, feed, {**feed, "n": np.array(1)})
    assert found.count("exact") == len(found.nodes) >= 2
    assert not found.findings


def test_a_branch_that_is_not_taken_is_said_not_to_have_run():
    text = """(bool c, float[4,24] x) => (float y) { y = If (c) <
        then_branch = t () => (float a) { a = MatMul(x, w) },
        else_branch = e () => (float a) { a = Neg(x) }> }"""
    model = view(text, w=array(24, 24))
    for weight in find_weights(model):
        coded(weight, "dynamic").emit(weight)
    found = checked(model, {"c": np.array(False), "x": floats(4, 24)})
    assert {node.result for node in found.nodes} == {"unknown"}
    assert not [one for one in found.findings if one.severity >= Severity.WARNING]


@pytest.mark.parametrize("reader", ["dynamic", "dequantize"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rounds its input"])
def test_a_node_that_goes_wrong_is_named(kind, reader):
    model, feed = compressed(reader)
    ran = optimized(model, feed)
    wrong = [node for node in ran.model.graph.nodes if node.op in RECOMPUTED][-1]
    at = list(ran.model.graph.nodes).index(wrong)

    def fault(copy):
        return KINDS[kind](copy, list(copy.graph.nodes)[at], Random(0))

    if fault(clone(ran.model)) is None:
        pytest.skip("nothing to do wrong there")
    found = executed(model, ran, [feed], partial(Faulty, fault, wrong))
    assert [node.node for node in found.nodes if node.result == "wrong"] == [wrong.name]
    assert any(one.severity == Severity.WRONG and one.where == wrong.name for one in found.findings)


def test_a_runtime_that_decodes_a_weight_otherwise_is_named(monkeypatch):
    def other(model, values):
        for value, numbers in decoded(model, values):
            yield value, numbers * np.float32(1.5)

    decoded = module.decoded
    monkeypatch.setattr(module, "decoded", other)
    model, feed = compressed("codec")
    texts = [str(one) for one in checked(model, feed).findings]
    assert len(texts) == 2
    assert all("1.5 times what it should be" in text for text in texts)


def test_an_optimizer_that_changes_a_weight_is_named():
    model, feed = compressed("dynamic")
    ran = optimized(model, feed)
    node = next(node for node in ran.model.graph.nodes if node.op in RECOMPUTED)
    stored = node.inputs[1]
    ran.model.set_constant(stored, -ran.model.constant(stored))
    found = executed(model, ran, [feed])
    wrong = [one for one in found.findings if one.severity == Severity.WRONG]
    assert any("optimizer changed its weight" in one.text for one in wrong)
    assert any("gives other outputs" in one.text for one in found.findings)


def test_a_graph_that_the_runtime_cannot_read_again_is_recomputed_as_written():
    def refuses(graph, taps):
        if graph is not model:
            raise InvalidError("it does not load")
        return Watch(graph, taps)

    model, feed = compressed("dynamic")
    found = checked(model, feed, watching=refuses)
    assert found.count("exact") == len(found.nodes) == 4  # twice two
    (finding,) = found.findings
    assert finding.severity == Severity.WARNING
    assert "as written" in finding.text


@pytest.mark.parametrize(
    ("change", "holds"), [(0.0, True), (1e-6, True), (1e-3, False), (np.nan, False)]
)
def test_floats_fit_within_the_rounding_of_sums(change, holds):
    want = floats(50, 40)
    got = want.copy()
    got[3, 4] += F32(change)
    found = fit(Way((want,), terms=64), [got])
    assert found.holds == holds
    assert found.exact == (change == 0)


def test_integers_fit_within_the_steps_allowed():
    want = codes(np.uint8, 30, low=1, high=200)
    assert fit(Way((want,)), [want]).exact
    assert not fit(Way((want,)), [want + np.uint8(1)]).holds
    assert fit(Way((want,), steps=1), [want + np.uint8(1)]).holds
    assert not fit(Way((want,)), [want[:-1]]).holds


def test_low_bit_nodes_without_a_kernel_are_listed():
    inputs = [codes(np.uint8, 1, 2, 8, 8), scalar(0.1), scalar(3, np.uint8)]
    inputs += [scalar(0.1), scalar(3, np.uint8)]
    model, feed = one_node(
        "QLinearAveragePool", inputs, domain="com.microsoft", kernel_shape=[2, 2], strides=[2, 2]
    )
    (finding,) = checked(model, feed).findings
    assert finding.severity == Severity.NOTE
    assert "not recomputed" in finding.text
