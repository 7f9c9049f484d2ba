"""fold on whole models: duplicates, dead code, the bodies of nodes, and chains of anything."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from models_by_text import (
    assert_same,
    build,
    draw,
    fold,
    norm,
    ops,
    run,
    same_numbers_in_any_order,  # noqa: F401
)

# ------------------------------------------------------------------------ duplicates, dead code


def test_equal_constants_become_one():
    table = draw(16, 16)
    proto = build(
        "g (float[N,16] x) => (float[N,16] y) { h = MatMul (x, A)  y = MatMul (h, B) }",
        A=table,
        B=table.copy(),
    )
    folded, report = fold(proto)
    assert len(folded.graph.initializer) == 1
    assert any("equal" in entry.text for entry in report.changes)
    assert_same(proto, folded, {"x": draw(2, 16)})


def test_constants_that_differ_in_type_shape_or_sign_stay_apart():
    proto = build(
        "g (float[1,2] x, int64[1,2] i) => (float[?,?] y, int64[?,?] j, float[?,?] z) "
        "{ y = Add (x, A)  z = Div (x, B)  w = Reshape (C, D)  k = Add (i, w)  j = Add (k, E) }",
        A=np.float32([0, 0]),
        B=np.float32([-0.0, -0.0]),
        C=np.int64([[2, 1], [0, 0]])[:1],
        D=np.int64([1, 2]),
        E=np.int64([1, 2]),
    )
    folded, _ = fold(proto)
    assert {"A", "B"} <= {tensor.name for tensor in folded.graph.initializer}
    feed = {"x": np.float32([[1, 2]]), "i": np.int64([[1, 2]])}
    for expected, actual in zip(
        run(proto, feed, optimized=False), run(folded, feed, optimized=False), strict=True
    ):
        assert np.array_equal(expected, actual)


def test_what_nothing_reads_goes():
    proto = build(
        "g (float[2] x, float[2] unused) => (float[2] y) "
        "{ d = Mul (x, dead)  e = Relu (d)  y = Neg (x) }",
        dead=draw(2),
        deader=draw(5),
    )
    folded, report = fold(proto)
    assert ops(folded) == ["Neg"]
    assert not folded.graph.initializer
    assert len(folded.graph.input) == 2
    assert report.modified
    assert_same(proto, folded, {"x": draw(2), "unused": draw(2)})


# --------------------------------------------------------------------------------------- bodies


def test_branches_are_cleaned_and_keep_what_they_give():
    then = build(
        "g () => (float[?,?,?,?] b) { i = Identity (x)  h = Conv (i, W)  "
        "n = BatchNormalization (h, g, b0, m, v)  b = Identity (n) }"
    ).graph
    other = build("g () => (float[?,?,?,?] b2) { b2 = Identity (r) }").graph
    node = helper.make_node("If", ["c"], ["h"], then_branch=then, else_branch=other)
    numbers = norm(4)
    numbers["b0"] = numbers.pop("b")
    proto = build(
        "g (bool c, float[1,4,6,6] x) => (float[?,?,?,?] y) { r = Relu (x)  y = Neg (h) }",
        W=draw(4, 4, 1, 1),
        **numbers,
    )
    proto.graph.node.insert(1, node)
    folded, _ = fold(proto)
    branch = helper.get_attribute_value(
        next(n for n in folded.graph.node if n.op_type == "If").attribute[0]
    )
    assert "BatchNormalization" not in {inner.op_type for inner in branch.node}
    for chosen in (True, False):
        assert_same(proto, folded, {"c": np.array(chosen), "x": draw(1, 4, 6, 6)})


def test_the_body_of_a_loop_keeps_its_inputs_and_outputs():
    body = build(
        "g (int64 i, bool go, float[2] a) => (bool on, float[2] b, float[2] s) "
        "{ on = Identity (go)  k = Add (c, c)  t = Identity (a)  d = Dropout (t)  "
        "b = Add (d, k)  s = Identity (b) }"
    ).graph
    node = helper.make_node("Loop", ["count", "true", "x"], ["y", "z"], body=body)
    proto = build("g (float[2] x) => (float[2] y, float[?,2] z) {}", c=draw(2))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(3), "count"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    proto.graph.node.append(node)
    folded, report = fold(proto)
    assert report.modified
    assert_same(proto, folded, {"x": draw(2)})


# ------------------------------------------------------------------------------------- anything


STEPS = {
    "relu": "{o} = Relu ({i})",
    "identity": "{o} = Identity ({i})",
    "dropout": "{o} = Dropout ({i})",
    "cast": "{o} = Cast <to=1> ({i})",
    "turn": "{o} = Transpose <perm=[0,1,3,2]> ({i})",
    "turn more": "{o} = Transpose <perm=[0,2,3,1]> ({i})",
    "turn back": "{o} = Transpose <perm=[0,3,1,2]> ({i})",
    "reshape": "{o} = Reshape ({i}, shape)",
    "conv": "{o} = Conv ({i}, W1)",
    "conv again": "{o} = Conv ({i}, W2, c)",
    "norm": "{o} = BatchNormalization ({i}, g, b, m, v)",
    "norm again": "{o} = BatchNormalization ({i}, g, b, m, v)",
    "scale": "{o}k = Mul (g, b)  {o}r = Reshape ({o}k, channel)  {o} = Mul ({i}, {o}r)",
    "twin": "{o} = Add ({i}, {p})",
}


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8),
    st.lists(st.integers(0, 8), max_size=2),
)
def test_any_chain_stays_what_it_was(chosen, outs):
    lines, at, before = [], "x", "x"
    for number, step in enumerate(chosen):
        lines.append(STEPS[step].format(i=at, o=f"v{number}", p=before))
        at, before = f"v{number}", at
    outputs = list(dict.fromkeys([at, *(f"v{n}" for n in outs if n < len(chosen))]))
    proto = build(
        f"g (float[1,4,4,4] x) => ({', '.join(f'float[?,?,?,?] {name}' for name in outputs)}) "
        f"{{ {' '.join(lines)} }}",
        shape=np.int64([1, 4, 4, 4]),
        channel=np.int64([4, 1, 1]),
        W1=draw(4, 4, 1, 1),
        W2=draw(4, 4, 1, 1),
        c=draw(4),
        **norm(4),
    )
    folded, _ = fold(proto)
    assert_same(proto, folded, {"x": draw(1, 4, 4, 4)})
