"""The command line on graphs that are odd, and on outputs of which nothing can be told."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnx_compress.cli import main
from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.prune import Prune

from models_by_text import (
    Feed,
    build,
    draw,
    fold,
    quant,
    reasons,
    run,
    same_numbers_in_any_order,  # noqa: F401
)

QUANT = ("--passes", "quant(bits=8)")
FOLD = ("--passes", "fold")
ONE_LAYER = "g (float[N,96] x) => (float[N,96] y) { y = MatMul (x, W) }"
TWO_LAYERS = "g (float[N,96] x) => (float[N,96] z) { y = MatMul (x, W)  z = MatMul (y, V) }"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compressed(proto: ModelProto, *arguments: str) -> tuple[ModelProto, dict[str, Any]]:
    """The result and its report."""
    Path("in.onnx").write_bytes(proto.SerializeToString())
    assert main(["in.onnx", "out.onnx", "--quiet", "--report", "r.json", *arguments]) == 0
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert {path.name for path in Path.cwd().iterdir()} <= {
        "in.onnx",
        "out.onnx",
        "r.json",
        "d.npz",
    }
    return onnx.load("out.onnx"), report


def refused(capsys, code: int, proto: ModelProto, *arguments: str) -> tuple[str, str]:
    """Error and hint; the code is as given, and nothing is written."""
    Path("in.onnx").write_bytes(proto.SerializeToString())
    before = {path: path.read_bytes() for path in Path.cwd().iterdir()}
    assert main(["in.onnx", "out.onnx", *arguments]) == code
    assert {path: path.read_bytes() for path in Path.cwd().iterdir()} == before
    printed = capsys.readouterr()
    assert printed.out == ""
    error, hint = printed.err.splitlines()
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    assert "README" not in hint  # that is what is said where nobody thought of a hint
    return error, hint


def near(before: ModelProto, after: ModelProto, feed: Feed, allowed: float = 0.02) -> None:
    """Names, types and open sizes stay, and numbers are those of the original."""
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    for r, y in zip(run(before, feed), run(after, feed), strict=True):
        assert y.shape == r.shape
        assert np.array_equal(np.isnan(y), np.isnan(r))
        known = np.isfinite(r)
        assert np.linalg.norm(y[known] - r[known]) <= allowed * np.linalg.norm(r[known])


def left_alone(report: dict[str, Any]) -> str:
    return json.dumps([stage["skipped"] for stage in report["stages"]])


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


# --------------------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_with_no_numbers_is_left_alone_and_the_rest_is_judged(number):
    odd = draw(96, 96)
    odd[3, 4] = number
    proto = build(TWO_LAYERS, W=draw(96, 96), V=odd)
    result, report = compressed(proto, *QUANT)
    assert "V" in left_alone(report)
    assert "NaN or infinity" in left_alone(report)
    assert 0 < report["quality"]["error"] < 0.02
    assert report["size"]["ratio"] > 1.4
    x = draw(3, 96)
    before, after = run(proto, {"x": x})[0], run(result, {"x": x})[0]
    assert np.array_equal(np.isfinite(before), np.isfinite(after))
    near(proto, result, {"x": x})


ROW = "z = MatMul (x, V)  h = Concat <axis=1> (x, z)  y = MatMul (h, W)"
COLUMN = "z = MatMul (n, V)  h = Add (x, z)  y = MatMul (h, W)"
EMPTY = {
    "rows": (f"g (float[N,96] x) => (float[N,96] y) {{ {ROW} }}", (96, 0)),
    "columns": (f"g (float[N,96] x, float[N,0] n) => (float[N,96] y) {{ {COLUMN} }}", (0, 96)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_weights_without_elements_are_no_obstacle(name):
    text, shape = EMPTY[name]
    proto = build(text, W=draw(96, 96), V=draw(*shape))
    result, report = compressed(proto, *QUANT)
    assert report["size"]["ratio"] > 3
    feed = {"x": draw(2, 96)} | ({"n": draw(2, 0)} if name == "columns" else {})
    near(proto, result, feed)


def test_an_input_without_elements_is_no_obstacle():
    proto = build(
        "g (float[0,96] n, float[2,96] x) => (float[?,96] y) "
        "{ h = Concat <axis=0> (n, x)  y = MatMul (h, W) }",
        W=draw(96, 96),
    )
    result, report = compressed(proto, *QUANT)
    assert report["size"]["ratio"] > 3
    near(proto, result, {"n": draw(0, 96), "x": draw(2, 96)})


# ------------------------------------------------------------- outputs of which nothing can be told

HEAD = "g (float[N,96] x) => (float[?,96] y) { i = Identity (x)  h = MatMul (i, W)  "
BLIND = {
    "random": ("y = RandomNormalLike (h) }", {}, "differs between equal runs"),
    "NaN": ("y = Mul (h, n) }", {"n": np.float32([np.nan])}, "NaN"),
    "infinite": ("e = Exp (h)  y = Div (e, n) }", {"n": np.float32([0])}, "infinite"),
    "empty": ("y = Slice (h, n, n) }", {"n": np.int64([0])}, "empty"),
}


def blind(name: str, beside: bool = False) -> ModelProto:
    text, weights, _ = BLIND[name]
    head = HEAD.replace("=> (", "=> (float[N,96] h, ") if beside else HEAD
    return build(head + text, W=draw(96, 96), **weights)


@pytest.mark.parametrize("passes", ["quant(bits=8)", "prune(sparsity=0.5)", "prune,quant"])
@pytest.mark.parametrize("name", BLIND)
def test_what_cannot_be_judged_is_refused_for_lossy_passes(capsys, name, passes):
    error, hint = refused(capsys, 6, blind(name), "--passes", passes)
    assert "cannot be judged" in error
    assert re.search(r"\by\b", error)
    assert BLIND[name][2] in error
    assert "--passes fold" in hint


@pytest.mark.parametrize("name", BLIND)
def test_what_cannot_be_judged_may_be_cleaned_up(name):
    proto = blind(name)
    result, report = compressed(proto, *FOLD)
    assert "Identity" not in {node.op_type for node in result.graph.node}
    assert list(result.graph.output) == list(proto.graph.output)
    assert any("y" in w and BLIND[name][2] in w for w in report["warnings"])


def test_the_screen_does_not_claim_an_error_where_nothing_was_judged(capsys):
    Path("in.onnx").write_bytes(blind("random").SerializeToString())
    assert main(["in.onnx", "out.onnx", *FOLD]) == 0
    printed = capsys.readouterr().out
    assert "not judged" in printed
    assert "200.0 dB" not in printed


@pytest.mark.parametrize("name", BLIND)
def test_an_output_that_tells_nothing_is_left_out_beside_one_that_tells(name):
    proto = blind(name, beside=True)
    result, report = compressed(proto, *QUANT)
    assert [output["name"] for output in report["quality"]["outputs"]] == ["h"]
    assert 0 < report["quality"]["error"] < 0.02
    assert any(BLIND[name][2] in w and "not judged" in w for w in report["warnings"])
    x = {"x": draw(2, 96)}
    before, after = run(proto, x)[0], run(result, x)[0]
    assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)


def test_nan_on_some_inputs_only_is_judged_by_the_others():
    proto = build(
        "g (float[N,96] x) => (float[N,96] y) { h = MatMul (x, W)  s = ReduceSum (x)"
        "  r = Sqrt (s)  d = Sub (r, r)  y = Add (h, d) }",
        W=draw(96, 96),
    )
    samples = np.abs(draw(8, 96))
    samples[2:6] *= -1  # two to fit on and two to judge on
    np.savez("d.npz", x=samples)
    result, report = compressed(proto, *QUANT, "--calib", "d.npz")
    assert 0 < report["quality"]["error"] < 0.05
    assert not any("not judged" in warning for warning in report["warnings"])
    for sample in samples:
        near(proto, result, {"x": sample[None]}, 0.05)


# -------------------------------------------------------------------------- old and new operators

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
