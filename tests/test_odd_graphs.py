"""The command line on graphs that are odd: outputs, names, other domains."""

import re

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.prune import Prune

from models_by_text import (
    build,
    draw,
    fold,
    quant,
    reasons,
    run,
    same_numbers_in_any_order,  # noqa: F401
)
from odd_runs import (
    ONE_LAYER,
    QUANT,
    TWO_LAYERS,
    compressed,
    left_alone,
    near,
    place,  # noqa: F401
    refused,
)

# --------------------------------------------------------------------------- outputs of any kind


def constant_node(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def test_an_input_may_be_an_output():
    proto = build(ONE_LAYER.replace("=> (", "=> (float[N,96] x, "), W=draw(96, 96))
    result, report = compressed(proto, *QUANT)
    assert report["size"]["ratio"] > 3
    near(proto, result, {"x": draw(2, 96)})


@pytest.mark.parametrize("kind", ["initializer", "Constant node"])
@pytest.mark.parametrize("outputs", ["alone", "beside another"])
def test_a_weight_may_be_an_output_and_is_then_left_alone(kind, outputs):
    weights = {"V": draw(96, 96)} | ({"W": draw(96, 96)} if kind == "initializer" else {})
    text = TWO_LAYERS.replace("=> (", "=> (float[96,96] W, ")
    proto = build(text, **weights)
    if kind != "initializer":
        proto.graph.node.insert(0, constant_node("W", draw(96, 96)))
    if outputs == "alone":
        del proto.graph.output[1]
    result, report = compressed(proto, *QUANT)
    feed = {"x": draw(2, 96)}
    near(proto, result, feed)
    np.testing.assert_array_equal(run(result, feed)[0], run(proto, feed)[0])
    if outputs != "alone":
        assert "gives it out" in left_alone(report)
        assert 1.3 < report["size"]["ratio"] < 2


def test_a_graph_of_one_output_that_is_its_input_is_copied():
    proto = build("g (float[N,96] x) => (float[N,96] x) { }")
    result, report = compressed(proto)
    assert report["verdict"] == "unchanged"
    assert result == proto


def test_an_output_may_be_given_twice():
    proto = build(ONE_LAYER.replace("=> (", "=> (float[N,96] y, "), W=draw(96, 96))
    try:
        run(proto, {"x": draw(2, 96)})
    except Exception:  # of the runtime
        pytest.skip("this ONNX Runtime does not take it")
    near(proto, compressed(proto, *QUANT)[0], {"x": draw(2, 96)})


# ------------------------------------------------------------------------------- names given twice


LAYER = "{ h = MatMul (x, W)  y = Relu (h) }"
TWICE = {
    "two nodes": (
        "(float[N,96] x) => (float[N,96] y) { h = MatMul (x, W)  h = Relu (x)  y = Neg (h) }",
        "h",
    ),
    "one node": (
        "(float[N,96] x) => (float[N,48] y) { h, h = Split <axis=1> (x)  y = Neg (h) }",
        "h",
    ),
    "an initializer and a node": (
        "(float[N,96] x) => (float[N,96] y) { W = Relu (x)  y = Neg (W) }",
        "W",
    ),
    "an input and a node": (
        "(float[N,96] x) => (float[N,96] y) { x = Relu (x)  y = Neg (x) }",
        "x",
    ),
    "two inputs": (f"(float[N,96] x, float[N,96] x) => (float[N,96] y) {LAYER}", "x"),
    "two initializers": (f"(float[N,96] x) => (float[N,96] y) {LAYER}", "W"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_name_given_twice_is_named(capsys, name):
    text, value = TWICE[name]
    proto = build("g " + text, W=draw(96, 96))
    if name == "two initializers":
        proto.graph.initializer.append(proto.graph.initializer[0])
    error, _ = refused(capsys, 3, proto)
    assert re.search(rf"\b{value}\b.*two .* one name", error)


# --------------------------------------------------------------------------------- other domains


def strange() -> ModelProto:
    """Two products, and an operator of nobody's on the weight of one of them."""
    proto = build(
        "g (float[N,96] x) => (float[N,96] y) "
        "{ i = Identity (x)  h = MatMul (i, W)  y = nobody.Thing (h, V) }",
        W=draw(96, 96),
        V=draw(96, 96),
    )
    proto.opset_import.append(helper.make_opsetid("nobody", 1))
    return proto


def test_an_unknown_operator_is_kept_by_all_passes_and_its_weight_left_alone_with_a_reason():
    proto = strange()
    before = proto.graph.node[2]
    folded, _ = fold(proto)
    assert [node.op_type for node in folded.graph.node] == ["MatMul", "Thing"]
    quantized, report = quant(proto, {"x": draw(2, 96)}, bits=16)
    assert re.search(r"\bV: .*Thing", reasons(report))
    model = from_proto(proto)
    Prune(sparsity=0.5).run(model, Context(targets.load("avx2"), {"x": draw(2, 96)}))
    for result in (folded, quantized, to_proto(model)):
        assert result.graph.node[-1] == before
        (kept,) = (t for t in result.graph.initializer if t.name == "V")
        np.testing.assert_array_equal(
            numpy_helper.to_array(kept), numpy_helper.to_array(proto.graph.initializer[1])
        )


def test_operators_of_other_domains_are_not_taken_for_those_of_onnx_by_their_names():
    proto = build(
        "g (float[N,96] x) => (float[N,96] y) { i = nobody.Identity (x)"
        "  h = nobody.MatMul (i, W)  k = nobody.Add (c, c)  y = nobody.Add (h, k) }",
        W=draw(96, 96),
        c=draw(96),
    )
    proto.opset_import.append(helper.make_opsetid("nobody", 1))
    assert not fold(proto)[1].changes
    assert not quant(proto, {"x": draw(2, 96)}, bits=16)[1].changes
    model = from_proto(proto)
    assert not Prune(sparsity=0.5).run(model, Context(targets.load("avx2"), {})).changes


@pytest.mark.parametrize("imported", [True, False], ids=["imported", "not imported"])
def test_the_command_refuses_an_operator_that_the_runtime_does_not_have(capsys, imported):
    proto = strange()
    if not imported:
        del proto.opset_import[1]
    error, hint = refused(capsys, 3, proto)
    assert "Thing" in error
    assert "nobody" in error
    assert not imported or "--custom-ops" in hint
