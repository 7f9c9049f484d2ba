"""inspect: all that is stored, and what would become of it."""

import json

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress import inspect
from onnx_compress.ir.graph import from_proto, save

from graphs import BRANCHES, HEAD, LOOP, WIDE, everything, parsed, product, weight
from places import names
from printed_commands import (
    TEXTS,
    fails,
    figures,
    folder_with_a_model,  # noqa: F401
    shown,
    write,
)

BOTH = """(bool c, float[N,64] x) => (float[N,64] y) { y = If (c) <
    then_branch = t () => (float[N,64] r) { r = MatMul(x, w) },
    else_branch = e () => (float[N,64] s) { s = MatMul(x, w) } > }"""
TIED = "(int64[N] i, float[N,64] x) => (float g, float y) { g = Gather(w, i)  y = MatMul(x, w) }"
FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
    g (float[N,2] x) => (float[N,2] y) { y = l.f(x) } <domain: "l", opset_import: ["" : 17]> f (p)
    => (q) { w = Constant<value = float[2,2] {1, 2, 3, 4}>()  q = MatMul(p, w) }"""


def branches(*stored: np.ndarray) -> ModelProto:
    """Each branch has a weight w of its own."""
    proto = parsed(BOTH)
    for attribute, array in zip(proto.graph.node[0].attribute, stored, strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(array, "w"))
    return proto


def in_a_constant() -> ModelProto:
    proto = parsed("(float[N,64] x) => (float y) { w = Constant()  y = MatMul(x, w) }")
    stored = onnx.helper.make_attribute("value", numpy_helper.from_array(weight()))
    proto.graph.node[0].attribute.append(stored)
    return proto


MODELS = {
    "two products": (product(), ["w", "v"]),
    "everything": (everything(), []),
    "a loop": (parse_model(HEAD + LOOP), []),
    "branches": (parse_model(HEAD + BRANCHES), []),
    "weights in branches": (branches(weight(0), weight(1)), ["w", "w"]),
    "a tied weight": (parsed(TIED, w=weight()), ["w"]),
    "a Constant node": (in_a_constant(), ["w"]),
    "a function": (parse_model(FUNCTION), []),
    "no weights": (parsed("(float[N] x) => (float[N] y) { y = Relu(x) }"), []),
    "no inputs": (parsed("() => (float[1] y) { y = Constant<value = float[1] {1}>() }"), []),
    "texts": (parsed(TEXTS, w=weight()), ["w"]),
    "strange": (parsed("(float[N,64] x) => (float y) { y = Odd(x, w) }", w=weight()), []),
    "a sequence": (parsed("(seq(float[N]) s) => (int64 y) { y = SequenceLength(s) }"), []),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_that_is_stored_is_inspected(name, capsys):
    proto, weights = MODELS[name]
    table = shown(capsys, "inspect", write(proto))
    found = figures(capsys, "inspect", "in.onnx")
    assert [row["name"] for row in found["rows"]] == weights
    for word in ("operator set", "nodes", "weights", "total", "memory", *weights):
        assert word in table
    model = from_proto(proto)
    stored = sum(len(list(model.stored(graph))) for graph in model.graphs())
    assert stored == len(found["rows"]) + found["others"]
    assert found["other_bytes"] >= 0
    assert sum(found["operators"].values()) == len(list(model.nodes()))
    assert bool(found["unknown"]) == (name in ("texts", "strange", "a sequence"))
    assert bool(found["unknown"]) == ("warning: not run" in table)
    for row in found["rows"]:
        assert row["bytes"] == WIDE * WIDE * 4
        assert bool(row["becomes"]) != bool(row["why"]) or found["unknown"]
    assert json.loads(json.dumps(inspect(proto).as_dict())) == found


def test_uses_and_what_is_no_weight_are_told(capsys):
    (row,) = figures(capsys, "inspect", write(MODELS["a tied weight"][0]))["rows"]
    assert row["operators"] == ["Gather", "MatMul"]
    assert "inside a function" in shown(capsys, "inspect", write(MODELS["a function"][0]))


def test_weights_of_one_name_are_told_apart(capsys):
    proto = branches(weight(), np.full((WIDE, WIDE), np.nan, "float32"))
    first, second = figures(capsys, "inspect", write(proto))["rows"]
    assert first["becomes"]
    assert "NaN" in second["why"]


@pytest.mark.parametrize("passes", ["prune", "quant(bits=8)"])
def test_nothing_is_said_of_weights_that_passes_were_not_tried_on(passes, capsys):
    proto = MODELS["texts"][0] if passes != "prune" else product()
    assert "nothing to do" not in shown(capsys, "inspect", write(proto), "--passes", passes)


def test_types_of_inputs_are_those_of_onnx(capsys):
    text = "(string[N] s, bfloat16[N] b) => (string[N] t, bfloat16[N] c) { "
    printed = shown(capsys, "inspect", write(parsed(text + "t = Identity(s)  c = Identity(b) }")))
    assert "s: string [N]" in printed
    assert "b: bfloat16 [N]" in printed


def test_external_data_are_inspected_and_counted(place, capsys):
    save(from_proto(product()), place / "m.onnx", external=True)
    found = figures(capsys, "inspect", "m.onnx")
    assert [row["bytes"] for row in found["rows"]] == [WIDE * WIDE * 4] * 2
    (place / names(place)[-1]).unlink()
    fails(capsys, 3, "inspect", "m.onnx")


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, ["wide"]), (9, ["wide", "w"])])
def test_only_the_largest_are_listed(count, expected, capsys):
    wide = np.concatenate([weight()] * 2, 1)
    text = "(float[N,64] x) => (float y) { h = MatMul(x, w)  y = MatMul(h, wide) }"
    write(parsed(text, w=weight(), wide=wide))
    printed = shown(capsys, "inspect", "in.onnx", "--largest", str(count))
    assert [x.split()[0] for x in printed.splitlines() if "initializer" in x] == expected


@pytest.mark.parametrize("name", ["w\x1b[31m", "a\nb", "[red]w[/red]", "\x9b", "ä漢", " "])
def test_odd_names_are_printed_harmlessly(name, capsys):
    proto = product(**{name: weight(0)})
    for node in proto.graph.node:
        node.input[1] = name
    proto.producer_name = name
    printed = shown(capsys, "inspect", write(proto))
    assert not name.isprintable() or name in printed
    assert name in [row["name"] for row in figures(capsys, "inspect", "in.onnx")["rows"]]
