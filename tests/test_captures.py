"""Captures: what a body reads from around it is a use, which the nodes around it count."""

import numpy as np

from onnx_compress.ir.graph.dead import remove_unused

from graphs import BRANCHES, LOOP, after, node, run, value, view


def test_a_capture_is_a_use_of_the_outer_value_and_the_nodes_around_it_count_it():
    model = view(BRANCHES)
    outer, inner = [n for n in model.nodes() if n.op == "If"]
    h, b, x, k = (value(model, name) for name in "hbxk")
    assert outer.captures == {h: 2, b: 1, x: 1}
    assert inner.captures == {h: 1, k: 2, x: 1}
    assert [n.op for n in h.consumers] == ["Mul", "Sub"]
    assert k.graph is inner.graph


def test_captures_follow_when_uses_move():
    model = view(BRANCHES)
    outer, inner = [n for n in model.nodes() if n.op == "If"]
    h, x = value(model, "h"), value(model, "x")
    model.replace_uses(h, x)
    assert outer.captures == {x: 3, value(model, "b"): 1}
    assert inner.captures[x] == 2
    assert h not in outer.captures
    model.remove(h.producer)
    after(model)


def test_the_innermost_value_of_a_name_is_meant():
    model = view("""g (bool c, float[2] x) => (float[2] y) {
        t = Neg(x)
        y = If (c) <then_branch = a () => (float[2] r) { t = Abs(x)  r = Exp(t) },
                    else_branch = b () => (float[2] r) { r = Exp(t) }>
    }""")
    first, second = [n for n in model.nodes() if n.op == "Exp"]
    assert first.inputs[0].producer.op == "Abs"
    assert second.inputs[0].producer.op == "Neg"
    assert first.inputs[0] is not second.inputs[0]


def test_a_value_used_before_its_own_in_the_body_still_means_the_bodys():
    model = view("""g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = a () => (float[2] r) { r = Exp(t)  t = Abs(x) },
                    else_branch = b () => (float[2] r) { r = Neg(x) }>
    }""")
    x = np.float32([-1, 2])
    np.testing.assert_allclose(run(after(model), c=True, x=x)[0], np.exp(np.abs(x)), 1e-5)


def test_loop_bodies_capture_and_keep_their_own_inputs():
    model = view(LOOP)
    loop = node(model, "Loop")
    assert loop.captures == {value(model, "w"): 1, value(model, "b"): 1}
    w = value(model, "w")
    model.replace_uses(w, model.add_node(model.graph, "Neg", [value(model, "x")]))
    remove_unused(model, [w])
    got = run(after(model), n=np.int64(2), x=np.float32([1, -1]))
    np.testing.assert_array_equal(got[1], [[0, 0], [-1, 1]])


def test_a_producer_of_a_capture_is_put_in_front_of_the_node_around_it():
    model = view(BRANCHES)
    h = value(model, "h")
    late = model.add_node(model.graph, "Neg", [value(model, "x")])
    model.replace_uses(h, late, only=lambda n: n.graph is not model.graph)
    order = [n.op for n in model.graph.sorted()]
    assert order.index("Neg") < order.index("If")
    x = np.float32([3, -4])
    np.testing.assert_array_equal(run(after(model), c=True, x=x)[0], -x * np.float32([1, 2]))
