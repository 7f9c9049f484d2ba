"""fold: nodes that do nothing go, and nodes that do something stay."""

import numpy as np
import pytest

from models_by_text import (
    assert_same,
    build,
    draw,
    fold,
    ops,
    same_numbers_in_any_order,  # noqa: F401
)

GONE = {
    "Identity": "h = Identity (r)",
    "Dropout": "h = Dropout (r)",
    "Dropout off": "h = Dropout (r, ratio, off)",
    "Cast": "h = Cast <to=1> (r)",
    "Transpose": "h = Transpose <perm=[0,1]> (r)",
    "Transpose twice": "t = Transpose <perm=[1,0]> (r)  h = Transpose <perm=[1,0]> (t)",
    "Reshape": "h = Reshape (r, shape)",
    "Expand": "h = Expand (r, ones)",
    "Flatten": "h = Flatten (r)",
    "in a row": "a = Identity (r)  b = Dropout (a)  d = Cast <to=1> (b)  h = Identity (d)",
}


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize("last", ["y = Neg (h)", "y = Identity (h)"])
def test_nodes_that_do_nothing_go(name, last):
    proto = build(
        f"g (float[3,4] x) => (float[?,?] y) {{ r = Relu (x)  {GONE[name]}  {last} }}",
        ratio=np.float32(0.5),
        off=np.array(False),
        shape=np.int64([3, 4]),
        ones=np.int64([1, 1]),
    )
    folded, _ = fold(proto)
    assert ops(folded) == (["Neg", "Relu"] if "Neg" in last else ["Relu"])
    assert not folded.graph.initializer
    assert_same(proto, folded, {"x": draw(3, 4)})


NEEDED = {
    "input to output": "y = Identity (x)  z = Neg (x)",
    "constant to output": "y = Identity (k)  z = Neg (x)",
    "two outputs": "r = Relu (x)  y = Identity (r)  z = Identity (r)",
    "an output of its own": "y = Relu (x)  z = Identity (y)",
    "Dropout mask": "r = Relu (x)  y, q = Dropout (r)  z = Cast <to=1> (q)",
    "Cast": "q = Cast <to=10> (x)  y = Cast <to=1> (q)  z = Neg (x)",
    "Transpose": "y = Transpose <perm=[1,0]> (x)  z = Neg (x)",
    "Reshape": "y = Reshape (x, turned)  z = Neg (x)",
    "Expand": "y = Expand (x, larger)  z = Neg (x)",
}


@pytest.mark.parametrize("name", NEEDED)
def test_nodes_that_do_something_stay(name):
    rank = "?,?,?" if name == "Expand" else "?,?"
    proto = build(
        f"g (float[3,4] x) => (float[{rank}] y, float[?,?] z) {{ {NEEDED[name]} }}",
        k=draw(2, 2),
        turned=np.int64([4, 3]),
        larger=np.int64([2, 1, 1]),
    )
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    folded, _ = fold(proto)
    left = len(proto.graph.node) - (name == "two outputs")
    assert len(folded.graph.node) == left
    assert_same(proto, folded, {"x": draw(3, 4)})


@pytest.mark.parametrize("op", ["Identity", "Dropout"])
def test_one_between_a_value_that_bodies_read_and_an_output_stays_once_and_for_all(op):
    """Found by drawn models: another Identity took its place, in every run."""
    branches = (
        "then_branch = t () => (float[N,4] a) { a = Neg (h) },"
        "else_branch = e () => (float[N,4] b) { b = Abs (h) }"
    )
    proto = build(
        "g (float[N,4] x, bool c) => (float[N,4] y, float[N,4] z) {"
        f" h = Relu (x)  y = {op} (h)  z = If (c) <{branches}> }}"
    )
    folded, report = fold(proto)
    assert not report.changes
    assert ops(folded) == sorted(["Relu", op, "If"])
    assert any("that bodies read" in entry.text for entry in report.skipped)


def test_an_identity_between_input_and_output_stays_with_a_reason():
    proto = build("g (float[3] x) => (float[3] y) { y = Identity (x) }")
    folded, report = fold(proto)
    assert folded == proto
    assert not report.modified
    assert any("between an input" in entry.text for entry in report.skipped)


def test_a_dropout_in_training_mode_stays():
    proto = build(
        "g (float[3,4] x) => (float[3,4] y) { r = Relu (x)  d = Dropout (r, ratio, on)  "
        "y = Neg (d) }",
        ratio=np.float32(0.5),
        on=np.array(True),
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Dropout", "Neg", "Relu"]


def test_two_transposes_become_one_and_the_report_says_so():
    proto = build(
        "g (float[2,3,4] x) => (float[?,?,?] y) "
        "{ t = Transpose <perm=[1,2,0]> (x)  y = Transpose <perm=[0,2,1]> (t) }"
    )
    folded, report = fold(proto)
    assert ops(folded) == ["Transpose"]
    assert report.modified
    assert_same(proto, folded, {"x": draw(2, 3, 4)})


def test_a_transpose_that_others_read_too_stays_for_them():
    proto = build(
        "g (float[2,3] x) => (float[?,?] y, float[?,?] z) "
        "{ t = Transpose <perm=[1,0]> (x)  u = Transpose <perm=[1,0]> (t)  y = Neg (u) "
        " z = Neg (t) }"
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Neg", "Neg", "Transpose"]
    assert_same(proto, folded, {"x": draw(2, 3)})


def test_a_reshape_between_open_shapes_stays():
    proto = build(
        "g (float[N,4] x, int64[2] s) => (float[A,B] y) { r = Relu (x)  h = Reshape (r, s) "
        " y = Neg (h) }"
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Neg", "Relu", "Reshape"]
    assert_same(proto, folded, {"x": draw(3, 4), "s": np.int64([2, 6])})
