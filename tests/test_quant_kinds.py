"""quant: every kind of weight in every setting, and which settings there are."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnx_compress.ir.graph import clone, from_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import Trial
from onnx_compress.passes.quant import Quant
from onnx_compress.passes.quant.encode import INTEGERS, WEAKEST

from models_by_text import (
    FAST,
    RNG,
    ROWS,
    Feed,
    all_nodes,
    all_ops,
    build,
    draw,
    embedding,
    error,
    quant,
    reset_numbers,
    same_numbers_in_any_order,  # noqa: F401
)

reset_numbers()


def branching() -> ModelProto:
    then = build("g () => (float[?,?] b) { b = MatMul (x, W) }", W=draw(96, 64)).graph
    other = build("g () => (float[?,?] e) { e = MatMul (x, V) }", V=draw(96, 64)).graph
    node = helper.make_node("If", ["c"], ["h"], then_branch=then, else_branch=other)
    proto = build("g (float[4,96] x, bool c) => (float[?,?] y) { y = Neg (h) }")
    proto.graph.node.insert(0, node)
    return proto


def constant_nodes() -> ModelProto:
    proto = build("g (float[4,96] x) => (float[?,?] y) { y = MatMul (x, W) }")
    tensor = numpy_helper.from_array(draw(96, 64), "")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=tensor))
    return proto


IMAGE: Feed = {"x": draw(2, 16, 8, 8)}


IDS: Feed = {"i": RNG.integers(0, 200, (3, 5))}


STEPS: Feed = {"x": draw(6, 2, 24)}


LSTM = "h, a, b = LSTM <hidden_size=32> (x, W, R)  y = Identity (h)"


MODELS: dict[str, tuple[ModelProto, Feed]] = {
    "Conv": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = Conv (x, W) }", W=draw(32, 16, 3, 3)
        ),
        IMAGE,
    ),
    "Conv groups": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = Conv <group=4> (x, W) }",
            W=draw(64, 4, 3, 3),
        ),
        IMAGE,
    ),
    "ConvTranspose": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = ConvTranspose (x, W) }",
            W=draw(16, 32, 3, 3),
        ),
        IMAGE,
    ),
    "ConvTranspose groups": (
        build(
            "g (float[2,16,8,8] x) => (float[?,?,?,?] y) { y = ConvTranspose <group=4> (x, W) }",
            W=draw(16, 24, 3, 3),
        ),
        IMAGE,
    ),
    "Gemm": (
        build(
            "g (float[4,96] x) => (float[?,?] y) { y = Gemm <alpha=0.5, beta=2.0> (x, W, c) }",
            W=draw(96, 64),
            c=draw(64),
        ),
        ROWS,
    ),
    "Gemm turned": (
        build(
            "g (float[4,96] x) => (float[?,?] y) { y = Gemm <transB=1> (x, W, c) }",
            W=draw(64, 96),
            c=draw(64),
        ),
        ROWS,
    ),
    "MatMul": (
        build("g (float[4,96] x) => (float[?,?] y) { y = MatMul (x, W) }", W=draw(96, 64)),
        ROWS,
    ),
    "MatMul from the left": (
        build("g (float[96,4] x) => (float[?,?] y) { y = MatMul (W, x) }", W=draw(64, 96)),
        {"x": draw(96, 4)},
    ),
    "MatMul batch": (
        build("g (float[3,4,96] x) => (float[?,?,?] y) { y = MatMul (x, W) }", W=draw(3, 96, 64)),
        {"x": draw(3, 4, 96)},
    ),
    "Gather": embedding(),
    "Gather along columns": (
        build(
            "g (int64[3,5] i) => (float[?,?,?] y) { y = Gather <axis=1> (W, i) }", W=draw(64, 200)
        ),
        IDS,
    ),
    "LSTM": (
        build(
            f"g (float[6,2,24] x) => (float[?,?,?,?] y) {{ {LSTM} }}",
            W=0.2 * draw(1, 128, 24),
            R=0.2 * draw(1, 128, 32),
        ),
        STEPS,
    ),
    "tied embedding": (
        build(
            "g (int64[3,5] i) => (float[?,?,?] y) "
            "{ h = Gather (W, i)  T = Transpose <perm=[1,0]> (W)  y = MatMul (h, T) }",
            W=draw(200, 64),
        ),
        IDS,
    ),
    "branch": (branching(), {**ROWS, "c": np.array(True)}),
    "Constant node": (constant_nodes(), ROWS),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("bits", "smaller", "allowed"), [(8, 2.5, 0.03), (16, 1.8, 0.001)])
def test_weights_take_fewer_bytes_and_outputs_stay_near(name, bits, smaller, allowed):
    proto, feed = MODELS[name]
    small, report = quant(proto, feed, bits=bits)
    assert report.modified
    assert proto.ByteSize() / small.ByteSize() > smaller
    # integer products take weights of 7 bits where pairs of products saturate
    assert error(proto, small, feed) < allowed * (2 if targets.host().saturates else 1)
    assert list(small.graph.input) == list(proto.graph.input)
    assert list(small.graph.output) == list(proto.graph.output)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_second_run_changes_nothing_and_says_why(name, bits):
    proto, feed = MODELS[name]
    once, _ = quant(proto, feed, bits=bits)
    twice, report = quant(once, feed, bits=bits)
    assert not report.modified
    assert report.skipped
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", MODELS)
def test_the_portable_target_gets_operators_of_onnx_alone(name):
    proto, feed = MODELS[name]
    small, _ = quant(proto, feed, targets.load("portable"), bits=8)
    assert {node.domain for node in all_nodes(small.graph)} <= {"", "ai.onnx"}
    assert {entry.domain for entry in small.opset_import} <= {"", "ai.onnx"}
    assert all(entry.version <= 17 for entry in small.opset_import)
    assert error(proto, small, feed) < 0.03


@pytest.mark.parametrize("name", MODELS)
def test_float_activations_have_no_integer_products(name):
    proto, feed = MODELS[name]
    small, report = quant(proto, feed, bits=8, activations="float")
    assert report.modified
    assert not all_ops(small) & {"MatMulInteger", "DynamicQuantizeLinear", "ConvInteger"}
    assert error(proto, small, feed) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_equal_models_get_equal_bytes(name):
    proto, feed = MODELS[name]
    first, second = (quant(proto, feed, bits=8)[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_table_is_never_decoded_before_rows_are_picked():
    text = "g (int64[4] i) => (float[?,?] y) { y = Gather (E, i) }"
    for rows, first in ((3000, "Gather"), (200, "Cast")):  # nobody misses the memory of a small one
        proto, feed = build(text, E=draw(rows, 96)), {"i": np.arange(4)}
        small, _ = quant(proto, feed, bits=8)
        (codes,) = (t for t in small.graph.initializer if t.data_type == onnx.TensorProto.INT8)
        readers = {node.op_type for node in small.graph.node if codes.name in node.input}
        assert readers == {first}


def test_a_tied_embedding_is_stored_once():
    proto, feed = MODELS["tied embedding"]
    small, _ = quant(proto, feed, bits=8)
    large = [t for t in small.graph.initializer if np.prod(t.dims) >= 200 * 64]
    assert len(large) == 1
    assert large[0].data_type == onnx.TensorProto.INT8


# ------------------------------------------------------------------------------------- settings


def test_without_bits_the_strongest_setting_comes_first():
    context = Context(FAST, ROWS)
    assert [str(setting) for setting in Quant().settings(context)] == [
        "quant(bits=8)",
        "quant(bits=8, least_db=22.0)",
        "quant(bits=8, least_db=26.0)",
        "quant(bits=8, activations='float')",
        "quant(bits=16)",
    ]
    assert not Quant().obeyed


@pytest.mark.parametrize("product", [False, True])
def test_settings_that_would_change_nothing_are_not_tried(product):
    text = "g (float[64,96] x) => (float[?,?] y) { %s }"
    weak = draw(64, 96)
    weak[0, 0] = 100  # bytes hold the others badly
    proto = build(text % ("y = MatMul (x, W)" if product else "y = Add (x, x)"), W=draw(96, 256))
    model, context = from_proto(proto), Context(FAST, {"x": weak}, memo={})
    found = Quant(least_db=0.0).search(model, context, 0.1, [])
    next(iter(found)).run(clone(model), context)
    tried = [setting.least_db for setting in found if setting.activations is None]
    assert tried == ([26.0, 18.0] if product else [18.0])  # it has 24 dB; the last is of 16 bits


@pytest.mark.parametrize(("integers", "fits"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("bits", [8, None])
def test_layer_by_layer_is_not_the_only_way_where_it_goes_too_far(integers, fits, bits):
    text = "g (float[4,96] x) => (float[?,?] y) { y = MatMul (x, W) }"
    model = from_proto(build(text, W=draw(96, 64)))
    context = Context(FAST, ROWS, [ROWS, ROWS], memo={INTEGERS: integers, WEAKEST: np.inf})
    tried = []
    found = []
    for setting in Quant(bits=bits).search(model, context, 0.1, tried):
        found.append((setting.bits, setting.activations, setting.sequential))
        tried.append(Trial(setting, 0.05 if fits else 0.3, fits))
    assert ((8, None, False) in found) == (not integers and not fits)
    if not integers and not fits:
        assert found[:2] == [(8, None, True), (8, None, False)]
        assert found[2:] == ([(16, None, True)] if bits is None else [])


def test_given_numbers_are_the_only_setting():
    given = Quant(bits=16)
    assert given.settings(Context(FAST, ROWS)) == (given,)
    assert given.obeyed


def test_given_activations_are_kept_in_every_setting_of_eight_bits():
    for setting in Quant(activations="float").settings(Context(FAST, ROWS)):
        assert setting.bits == 16 or setting.activations == "float"
