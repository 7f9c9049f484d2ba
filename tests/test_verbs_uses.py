"""Replacing uses: of outputs, in bodies, in part, and many of them."""

import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.build import add_exit
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.invariants import check

from graphs import HEAD, after, array, node, run, value, view


def test_a_replaced_output_of_the_model_keeps_its_name_and_type():
    model = view("g (float[2] x) => (float[2] y) { h = Abs(x)  y = Relu(h) }")
    before = model.interface()
    y = value(model, "y")
    new = model.add_node(model.graph, "Neg", [value(model, "h")])
    model.replace_uses(y, new)
    assert model.interface() == before
    assert model.outputs() == [new]
    model.remove(y.producer)
    np.testing.assert_array_equal(run(after(model), x=np.float32([1, -2]))[0], [-1, -2])


@pytest.mark.parametrize("new", ["x", "w", "z", "z2"])
def test_an_output_given_from_an_input_a_weight_or_another_output_gets_an_identity(new):
    text = """g (float[2] x) => (float[2] y, float[2] z, float[2] z2) <float[2] w = {7, 8}> {
        y = Relu(x)  z = Abs(x)  z2 = Neg(x) }"""
    model = view(text)
    before = model.interface()
    x = np.float32([1, -2])
    expected = {"x": x, "w": [7, 8], "z": np.abs(x), "z2": -x}[new]
    y = value(model, "y")
    model.replace_uses(y, value(model, new))
    remove_unused(model, [y])
    assert model.interface() == before
    got = run(after(model), x=x)
    np.testing.assert_array_equal(got, [expected, np.abs(x), -x])


@pytest.mark.parametrize("source", ["h", "b", "x", "k", "r2"])
def test_a_branch_never_gives_out_an_outer_value_or_one_value_twice(source):
    model = view("""g (bool c, float[2] x) => (float[2] y, float[2] z) <float[2] b = {1, 2}> {
        h = Add(x, b)
        y, z = If (c) <
            then_branch = t () => (float[2] r, float[2] r2) <float[2] k = {5, 6}>
                { r = Mul(h, k)  r2 = Neg(h) },
            else_branch = e () => (float[2] r, float[2] r2) { r = Abs(h)  r2 = Exp(h) }>
    }""")
    body = node(model, "If").bodies[0][1]
    x = np.float32([1, -2])
    b = np.float32([1, 2])
    expected = {"h": x + b, "b": b, "x": x, "k": [5, 6], "r2": -(x + b)}[source]
    r = value(model, "r", body)
    inner = source in ("k", "r2")
    model.replace_uses(r, value(model, source, body if inner else model.graph))
    remove_unused(model, [r])
    assert all(v.producer is not None and v.graph is body for v, _ in body.outputs)
    got = run(after(model), c=True, x=x)
    np.testing.assert_array_equal(got, [expected, -(x + b)])


def test_a_branch_that_gives_out_an_outer_value_in_the_file_can_be_edited():
    proto = parse_model(
        HEAD
        + """g (bool c, float[2] x) => (float[2] y) {
        h = Neg(x)
        y = If (c) <then_branch = t () => (float[2] h) { },
                    else_branch = e () => (float[2] r) { r = Abs(x) }>
    }"""
    )
    model = from_proto(proto)
    check(model)
    assert to_proto(model) == proto
    h, around = value(model, "h"), node(model, "If")
    assert around.captures == {h: 1, value(model, "x"): 1}
    with pytest.raises(InvalidError, match="still used"):
        model.remove(h.producer)
    new = model.add_node(model.graph, "Exp", [value(model, "x")])
    model.replace_uses(h, new)
    assert h not in around.captures
    model.remove(h.producer)
    got = run(after(model), c=True, x=np.float32([0, 1]))
    np.testing.assert_allclose(got[0], np.exp([0, 1]), rtol=1e-6)


def test_only_some_uses_are_replaced_and_then_no_output():
    model = view(
        "g (float[2] x) => (float[2] h, float[2] y) { h = Abs(x)  a = Neg(h)  y = Exp(a) }"
    )
    h = value(model, "h")
    new = model.add_node(model.graph, "Relu", [h])
    model.replace_uses(h, new, only=lambda n: n.op == "Neg")
    check(model)
    assert [n.op for n in h.consumers] == ["Relu"]
    assert [v.name for v in model.outputs()] == ["h", "y"]
    assert node(model, "Neg").inputs == [new]


def test_replacing_a_value_by_itself_changes_nothing():
    model = view("g (float[2] x) => (float[2] y) { h = Abs(x)  y = Relu(h) }")
    before = to_bytes(model)
    for name in ("h", "y"):
        model.replace_uses(value(model, name), value(model, name))
    assert to_bytes(model) == before


def test_an_input_that_is_an_output_too_keeps_its_name():
    model = view("g (float[2] x) => (float[2] x, float[2] y) { y = Abs(x) }")
    before = model.interface()
    y = value(model, "y")
    new = model.add_node(model.graph, "Neg", [value(model, "x")])
    try:
        model.replace_uses(value(model, "x"), new, only=None)
    except InvalidError:
        pass
    else:
        assert model.interface() == before
        names = [v.name for v in (*model.inputs(), *model.outputs())]
        assert names.count("x") == 1 or model.outputs()[0] is model.inputs()[0]
    assert y.is_used


def test_a_value_that_takes_over_a_name_does_not_hide_behind_one_in_a_body():
    """The runtime accepts bodies whose inputs have the name of an outer value."""
    model = view("""g (int64 k, float[2] x) => (float[2] y, float[2] z) {
        n = Neg(x)
        y = Relu(x)
        z = Loop(k, , x) <body = b (int64 i, bool c, float[2] y) => (bool d, float[2] r)
            { d = Identity(c)  r = Add(y, n) }>
    }""")
    y = value(model, "y", model.graph)
    model.replace_uses(y, value(model, "n"))
    remove_unused(model, [y])
    x = np.float32([1, -2])
    np.testing.assert_array_equal(run(after(model), k=np.int64(3), x=x), [-x, x - 3 * x])


def test_ten_thousand_consumers_are_re_pointed_in_time_linear_in_them():
    proto = ModelProto(ir_version=8)
    proto.opset_import.add(version=17)
    proto.graph.name = "g"
    proto.graph.input.append(helper.make_tensor_value_info("x", 1, [2]))
    proto.graph.node.add(op_type="Abs", input=["x"], output=["h"])
    for at in range(10_000):
        proto.graph.node.add(op_type="Neg", input=["h"], output=[f"y{at}"])
    proto.graph.output.append(helper.make_tensor_value_info("y9999", 1, [2]))
    model = from_proto(proto)
    h = value(model, "h")
    new = model.add_node(model.graph, "Relu", [value(model, "x")])
    model.replace_uses(h, new)
    assert len(new.uses) == 10_000
    assert not h.is_used
    model.remove(h.producer)
    check(model)
    assert remove_unused(model, [n.output for n in list(model.graph.nodes)]) == 9_999
    assert [n.op for n in model.graph.sorted()] == ["Relu", "Neg"]


def test_forgotten_shapes_are_not_declared_by_a_probe_either():
    """A value with a stale shape that is given out for a look must not be declared with it."""
    model = view(
        "(float[2,4] x) => (float[2,3] y) <float[2,4] h> { h = Relu(x) y = MatMul(h, w) }",
        w=array(4, 3),
    )
    h = value(model, "h")
    assert h.info is not None
    model.forget_shapes([h])
    model.graph.outputs.append((h, None))
    add_exit(h, model.graph)
    given = to_proto(model).graph.output[1]
    assert given.name == "h"
    assert not given.type.tensor_type.HasField("shape")
    assert not to_proto(model).graph.value_info
