"""The command line where there are no numbers, or none that tell anything."""

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from onnx_compress.cli import main

from models_by_text import (
    build,
    draw,
    run,
    same_numbers_in_any_order,  # noqa: F401
)
from odd_runs import (
    QUANT,
    TWO_LAYERS,
    compressed,
    left_alone,
    near,
    place,  # noqa: F401
    refused,
)

FOLD = ("--passes", "fold")


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
