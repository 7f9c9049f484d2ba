"""The graph: captures, the verbs that edit it, copies, order, what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import Model, Value, clone, from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.evaluate import evaluate
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.graph.patterns import constant_inputs, producer, sole_consumer, unshared
from onnx_compress.ir.runtime import Session

HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def view(text: str) -> Model:
    model = from_proto(parse_model(text if text.startswith("<") else HEAD + text))
    check(model)
    return model


def value(model: Model, name: str, graph=None) -> Value:
    for found in [graph] if graph else model.graphs():
        values = [v for v, _ in found.inputs] + list(found.initializers)
        for v in values + [v for node in found.nodes for v in node.outputs if v]:
            if v.name == name:
                return v
    raise KeyError(name)


def node(model: Model, op: str):
    return next(node for node in model.nodes() if node.op == op)


def run(model: Model | ModelProto, **feed):
    model = from_proto(model) if isinstance(model, ModelProto) else model
    return Session(model).run({name: np.asarray(array) for name, array in feed.items()})


def after(model: Model) -> Model:
    """The model as it is read again once it is written."""
    check(model)
    again = from_proto(to_proto(model))
    check(again)
    return again


BRANCHES = """g (bool c, float[2] x) => (float[2] y) <float[2] b = {1, 2}> {
    h = Add(x, b)
    y = If (c) <
        then_branch = t () => (float[2] r) { r = Mul(h, b) },
        else_branch = e () => (float[2] r) <float[2] k = {5, 5}> {
            d = Constant<value = bool {1}>()
            r = If (d) <
                then_branch = et () => (float[2] s) { q = Sub(h, k)  s = Sub(q, x) },
                else_branch = ee () => (float[2] s) { s = Identity(k) }
            >
        }
    >
}"""

LOOP = """g (int64 n, float[2] x) => (float[2] last, float[m, 2] all) <float[2] b = {1, 2}> {
    w = Relu(x)
    on = Constant<value = bool {1}>()
    last, all = Loop(n, on, x) <body = l (int64 i, bool go, float[2] acc)
            => (bool still, float[2] next, float[2] row) {
        still = Identity(go)
        u = Add(acc, w)
        next = Mul(u, b)
        row = Identity(u)
    }>
}"""


# ------------------------------------------------------------------------------------ captures


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


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "body",
    [
        "(float[2] x) => (float[2] y) { y = Relu(x)  y = Abs(x) }",
        "(float[2] x) => (float[2] y) { x = Relu(x)  y = Abs(x) }",
        "(float[2] x) => (float[2] y) <float[2] y = {1, 2}> { y = Abs(x) }",
        "(float[2] x) => (float[2] y) <float[2] w = {1,2}, float[2] w = {3,4}> { y = Add(x, w) }",
        "(float[2] x, float[2] x) => (float[2] y) { y = Relu(x) }",
        "(float[2] x) => (float[1] y) { y, y = Split(x) }",
        "(float[2] x) => (float[2] y) { y = a.f(x) } <domain: \"a\", opset_import: [\"\" : 17]> "
        "f (p) => (q) { q = Relu(p)  q = Abs(p) }",
    ],
)  # fmt: skip
def test_two_values_of_one_name_are_refused(body):
    with pytest.raises(InvalidError, match="name"):
        from_proto(parse_model(HEAD + "g " + body))


def test_a_sparse_and_a_dense_initializer_of_one_name_are_refused():
    proto = parse_model(
        HEAD + "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
    )
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(
        SparseTensorProto(values=values, indices=indices, dims=[2])
    )
    with pytest.raises(InvalidError, match="name"):
        from_proto(proto)


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "", "b"]), max_size=30))
def test_fresh_names_are_new_and_start_with_their_stem(stems):
    model = view("g (float[2] a) => (float[2] a_1) { a_1 = Relu(a) }")
    made = [model.fresh(stem) for stem in stems]
    assert len({*made, "a", "a_1"}) == len(made) + 2
    assert all(name.startswith(stem) for name, stem in zip(made, stems, strict=True))


def test_fresh_names_avoid_those_of_bodies_and_functions():
    model = view(
        HEAD
        + """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = a () => (float[2] inner) { inner = Abs(x) },
                        else_branch = b () => (float[2] r) { r = l.f(x) }>
        } <domain: "l", opset_import: ["" : 17]> f (p) => (q) { deep = Abs(p)  q = Neg(deep) }"""
    )
    assert model.fresh("inner") != "inner"
    assert model.fresh("deep") != "deep"


def test_renaming_reaches_every_place_that_writes_the_name():
    proto = parse_model(HEAD + BRANCHES)
    note = proto.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, [2]))
    model = from_proto(proto)
    model.rename(value(model, "h"), "hidden")
    model.rename(value(model, "b"), "bias")
    text = to_proto(after(model)).graph
    assert [i.name for i in text.value_info] == ["hidden"]
    assert text.quantization_annotation[0].tensor_name == "hidden"
    assert text.quantization_annotation[0].quant_parameter_tensor_names[0].value == "bias"
    x = np.float32([1, 2])
    for c in (True, False):
        np.testing.assert_array_equal(
            run(model, c=c, x=x), run(parse_model(HEAD + BRANCHES), c=c, x=x)
        )


def test_names_of_the_interface_and_taken_names_are_refused():
    model = view(BRANCHES)
    for name in "xy":
        with pytest.raises(InvalidError, match="interface"):
            model.rename(value(model, name), "new")
    with pytest.raises(InvalidError, match="taken"):
        model.rename(value(model, "h"), "q")
    with pytest.raises(InvalidError):
        model.rename(value(model, "h"), "")


# ----------------------------------------------------------------------------- replacing uses


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


# -------------------------------------------------------------------------------------- order


def chain(length: int) -> ModelProto:
    """x -> Neg -> ... -> y, written from the last node to the first."""
    proto = ModelProto(ir_version=8)
    proto.opset_import.add(version=17)
    proto.graph.name = "g"
    proto.graph.input.append(helper.make_tensor_value_info("v0", 1, [2]))
    for at in reversed(range(length)):
        proto.graph.node.add(op_type="Neg", input=[f"v{at}"], output=[f"v{at + 1}"])
    proto.graph.output.append(helper.make_tensor_value_info(f"v{length}", 1, [2]))
    return proto


def test_a_chain_of_twenty_thousand_nodes_in_reverse_is_sorted_copied_and_removed():
    model = from_proto(chain(20_000))
    check(model)
    written = to_proto(clone(model)).graph.node
    assert [n.output[0] for n in written] == [f"v{at}" for at in range(1, 20_001)]
    last = model.outputs()[0]
    model.replace_uses(last, model.add_node(model.graph, "Abs", [model.inputs()[0]]))
    assert remove_unused(model, [last]) == 20_000
    assert [n.op for n in after(model).graph.nodes] == ["Abs"]


@st.composite
def shuffled(draw) -> ModelProto:
    """Nodes in any order, each reading earlier ones of a hidden order."""
    count = draw(st.integers(1, 12))
    made = []
    for at in range(count):
        reads = draw(st.lists(st.integers(0, at), min_size=1, max_size=3))
        made.append(helper.make_node("Sum", [f"v{i}" for i in reads], [f"v{at + 1}"]))
    proto = ModelProto(ir_version=8)
    proto.opset_import.add(version=17)
    proto.graph.name = "g"
    proto.graph.input.append(helper.make_tensor_value_info("v0", 1, [2]))
    proto.graph.node.extend(draw(st.permutations(made)))
    proto.graph.output.append(helper.make_tensor_value_info(f"v{count}", 1, [2]))
    return proto


@given(shuffled())
def test_nodes_are_written_after_what_they_read_and_stay_where_they_may(proto):
    model = from_proto(proto)
    order = [n.output.name for n in model.graph.sorted()]
    assert sorted(order) == sorted(n.output[0] for n in proto.graph.node)
    place = {name: at for at, name in enumerate(["v0", *order])}
    for n in model.graph.nodes:
        assert all(place[v.name] < place[n.output.name] for v in n.inputs)
    again = from_proto(to_proto(model))
    assert [n.output.name for n in again.graph.sorted()] == order
    assert [n.output.name for n in again.graph.nodes] == order


def test_a_cycle_is_found_also_through_a_body():
    proto = parse_model(
        HEAD
        + """g (bool c, float[2] x) => (float[2] y) {
        a = Neg(y)
        y = If (c) <then_branch = t () => (float[2] r) { r = Abs(a) },
                    else_branch = e () => (float[2] r) { r = Abs(x) }>
    }"""
    )
    with pytest.raises(InvalidError, match="cycle"):
        check(from_proto(proto))
    with pytest.raises(InvalidError, match="cycle"):
        to_bytes(from_proto(proto))


# ------------------------------------------------------------------------------ adding nodes


def test_new_nodes_carry_attributes_domain_documentation_and_metadata():
    model = view("g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }")
    relu = node(model, "Relu")
    relu.proto.doc_string = "doc"
    relu.proto.metadata_props.add(key="namespace", value="a/b")
    out = model.add_node(
        model.graph, "Gelu", [relu.output], domain="com.microsoft", stem="s", like=relu, b=2, a=None
    )
    made = out.producer
    assert out.name == "s"
    assert made.op == "com.microsoft.Gelu"
    assert [a.name for a in made.proto.attribute] == ["b"]
    assert (made.proto.doc_string, made.proto.metadata_props[0].value) == ("doc", "a/b")


def test_a_refused_node_leaves_the_model_as_it_was():
    model = view(BRANCHES)
    before = to_bytes(model)
    with pytest.raises(InvalidError, match="seen"):
        model.add_node(model.graph, "Add", [value(model, "x"), value(model, "k")])
    check(model)
    assert to_bytes(model) == before


def test_an_inner_value_cannot_be_read_outside():
    model = view(BRANCHES)
    with pytest.raises(InvalidError, match="seen"):
        model.set_input(node(model, "Add"), 0, value(model, "k"))
    check(model)


def test_the_same_edits_give_the_same_bytes():
    def edited() -> bytes:
        model = view(BRANCHES)
        b = Builder(model, model.graph, "w", like=node(model, "Add"))
        out = b("Mul", value(model, "h"), b.constant(np.float32([2, 3]), "scale"))
        out = b("Clip", out, None, b.constant(np.float32(4), "top"), name="clip")
        model.replace_uses(
            value(model, "h"),
            out,
            only=lambda n: (
                n.op in ("Mul", "Sub")
                and n.name != out.producer.name
                and n.graph is not model.graph
            ),
        )
        check(model)
        return to_bytes(model)

    assert edited() == edited()


def test_a_builder_adds_outputs_to_a_node_it_made():
    model = view("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    b = Builder(model, model.graph, "p")
    parts = b.more_outputs(b("Split", value(model, "x"), num_outputs=None), 2)
    model.replace_uses(value(model, "y"), b("Concat", *reversed(parts), axis=0))
    got = run(after(model), x=np.float32([1, 2, 3, 4]))
    np.testing.assert_array_equal(got[0], [3, 4, 1, 2])
    with pytest.raises(ValueError, match="not made"):
        b.more_outputs(value(model, "x"), 2)


def test_a_builder_adds_outputs_to_a_node_of_the_file():
    model = view("g (float[3] x) => (float[3] y) { y = Dropout(x) }")
    b = Builder(model, model.graph, "p")
    _, mask = b.more_outputs(value(model, "y"), 2)
    out = b("Cast", mask, to=TensorProto.FLOAT)
    model.graph.outputs.append((out, None))
    written = to_proto(model)
    assert list(written.graph.node[0].output) == ["y", mask.name]


# ---------------------------------------------------------------------------------- constants


def test_constants_are_read_wherever_they_are_kept():
    model = view("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Constant<value = float[2] {3, 4}>()
        b = Constant<value_floats = [5.0, 6.0]>()
        c = Constant<value_float = 7.0>()
        d = Constant<value_ints = [8, 9]>()
        e = Constant<value_int = 10>()
        i = Identity(w)
        y = Sum(x, w, a, b, c)
    }""")
    found = {name: model.constant(value(model, name)) for name in "wabcdeix"}
    assert found.pop("i") is None
    assert found.pop("x") is None
    assert {n: a.tolist() for n, a in found.items()} == {
        "w": [1, 2], "a": [3, 4], "b": [5, 6], "c": 7, "d": [8, 9], "e": 10
    }  # fmt: skip
    assert [found[n].dtype for n in "bcde"] == [np.float32, np.float32, np.int64, np.int64]
    assert model.constant(None) is None


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers_and_sparse_constant_nodes_are_read(flat):
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = [1, 5] if flat else [0, 1, 1, 1]
    indices = helper.make_tensor("", TensorProto.INT64, [2] if flat else [2, 2], places)
    sparse = SparseTensorProto(values=values, indices=indices, dims=[2, 4])
    proto = parse_model(HEAD + "g (float[N,2] x) => (float[N,4] y) { y = MatMul(x, w) }")
    kept = ModelProto()
    kept.CopyFrom(proto)
    kept.graph.sparse_initializer.append(sparse)
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    for model in (from_proto(kept), from_proto(proto)):
        w = model.constant(value(model, "w"))
        np.testing.assert_array_equal(w, [[0, 1, 0, 0], [0, 2, 0, 0]])
        np.testing.assert_array_equal(run(model, x=np.float32([[1, 1]]))[0], [[0, 3, 0, 0]])
        model.set_constant(value(model, "w"), w * 2)
        np.testing.assert_array_equal(run(after(model), x=np.float32([[1, 1]]))[0], [[0, 6, 0, 0]])


def test_an_empty_sparse_tensor_and_a_scalar_are_read():
    proto = parse_model(HEAD + "g (float[2] x) => (float[2] y) <float s = {3}> { y = Mul(x, s) }")
    sparse = SparseTensorProto(
        values=helper.make_tensor("z", TensorProto.FLOAT, [0], []),
        indices=helper.make_tensor("", TensorProto.INT64, [0], []),
        dims=[2, 3],
    )
    proto.graph.sparse_initializer.append(sparse)
    model = from_proto(proto)
    np.testing.assert_array_equal(model.constant(value(model, "z")), np.zeros((2, 3)))
    assert model.constant(value(model, "s")).shape == ()


ELEMENTS = """FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 UINT8 INT16 INT64 BOOL INT4 UINT4 FLOAT8E4M3FN
    FLOAT8E5M2 FLOAT4E2M1 STRING COMPLEX64""".split()


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (101, 97)])
def test_numbers_of_every_type_and_size_survive_being_set_and_written(element, shape):
    kind = getattr(TensorProto, element)
    old = helper.make_tensor("w", kind, [1], [b"a" if element == "STRING" else 1])
    proto = parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.initializer.append(old)
    proto.graph.initializer[0].doc_string = "doc"
    model = from_proto(proto)
    w = value(model, "w")
    source = np.random.default_rng(0).integers(0, 2, shape)
    dtype = model.constant(w).dtype
    new = (
        np.array([str(n) for n in source.ravel()], object).reshape(shape)
        if element == "STRING"
        else source.astype(dtype)
    )
    model.set_constant(w, new)
    np.testing.assert_array_equal(model.constant(w), new)
    (written,) = to_proto(model).graph.initializer
    assert (written.data_type, written.doc_string, written.name) == (kind, "doc", "w")
    got = numpy_helper.to_array(written)
    np.testing.assert_array_equal(got.astype(str) if element == "STRING" else got, new)


def test_numbers_in_any_memory_layout_are_stored_in_order():
    model = view(
        "g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul(x, w) }".replace(
            "<float[4,3] w>", "<float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>"
        )
    )
    w = value(model, "w")
    new = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))[::-1]
    model.set_constant(w, new)
    np.testing.assert_array_equal(model.constant(w), new)
    np.testing.assert_array_equal(numpy_helper.to_array(to_proto(model).graph.initializer[0]), new)


def test_another_element_type_is_refused():
    model = view(BRANCHES)
    with pytest.raises(InvalidError, match="INT64 given where FLOAT"):
        model.set_constant(value(model, "b"), np.array([1, 2]))
    with pytest.raises(InvalidError, match="no constant"):
        model.set_constant(value(model, "h"), np.float32([1, 2]))


@pytest.mark.parametrize(
    ("attribute", "new"),
    [
        ("value = float[2] {3, 4}", np.float32([5, 6])),
        ("value_floats = [3.0, 4.0]", np.float32([5, 6])),
        ("value_float = 3.0", np.float32(5)),
    ],
)
def test_a_constant_node_can_be_set_however_it_is_spelled(attribute, new):
    model = view(f"g (float[2] x) => (float[2] y) {{ w = Constant<{attribute}>()  y = Add(x, w) }}")
    model.set_constant(value(model, "w"), new)
    np.testing.assert_array_equal(model.constant(value(model, "w")), new)
    got = run(after(model), x=np.float32([1, 1]))
    np.testing.assert_array_equal(got[0], np.float32([1, 1]) + new)


def test_the_other_copies_keep_their_numbers_when_one_is_set():
    first = view(
        "g (float[2] x) => (float[2] y) { w = Constant<value = float[2] {3, 4}>() y = Add(x, w) }"
    )
    second = clone(first)
    second.set_constant(value(second, "w"), np.float32([9, 9]))
    assert first.constant(value(first, "w")).tolist() == [3, 4]


# ------------------------------------------------------------------------------------ removal


def test_what_is_used_cannot_be_removed():
    model = view(BRANCHES)
    for name in ("h", "q"):
        with pytest.raises(InvalidError, match="still used"):
            model.remove(value(model, name).producer)
    with pytest.raises(InvalidError, match="still used"):
        model.remove_initializer(value(model, "b"))
    with pytest.raises(InvalidError, match="still used"):
        model.remove(node(model, "If"))
    check(model)


def test_a_node_goes_with_its_bodies_and_what_only_they_used():
    model = view(BRANCHES)
    around = node(model, "If")
    y = value(model, "y")
    model.replace_uses(y, model.add_node(model.graph, "Abs", [value(model, "x")]))
    h, b, x = value(model, "h"), value(model, "b"), value(model, "x")
    assert remove_unused(model, [y]) == 3
    assert around not in model.graph.nodes
    assert not h.alive
    assert not b.alive
    assert x.consumers == [node(model, "Abs")]
    assert [n.op for n in after(model).nodes()] == ["Abs"]


def test_removing_stops_at_what_others_use_and_at_inputs():
    model = view("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Add(x, w)  b = Neg(a)  dead = Abs(b)  y = Exp(b) }""")
    assert remove_unused(model, [value(model, "dead"), None, value(model, "x")]) == 1
    assert [n.op for n in after(model).nodes()] == ["Add", "Neg", "Exp"]


def test_a_node_stays_while_any_of_its_outputs_is_used():
    model = view("g (float[4] x) => (float[2] y) { a, y = Split(x) }")
    assert remove_unused(model, [value(model, "a")]) == 0
    check(model)


def test_removing_the_last_use_of_a_weight_never_makes_it_an_input_that_must_be_given():
    for version in (3, 8):
        model = view(f"""<ir_version: {version}, opset_import: ["" : 8]>
            g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 2}}> {{
            dead = Add(x, w)  y = Abs(x) }}""")
        before = model.interface()
        remove_unused(model, [value(model, "dead")])
        assert model.interface() == before
        assert [v.name for v in model.inputs()] == ["x"]
        np.testing.assert_array_equal(run(after(model), x=np.float32([1, -2]))[0], [1, 2])


def test_type_and_notes_of_removed_values_are_not_written():
    proto = parse_model(
        HEAD + "g (float[2] x) => (float[2] y) { a = Neg(x)  d = Abs(a)  y = Exp(x) }"
    )
    for name in ("a", "d"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, 1, [2]))
        proto.graph.quantization_annotation.add(tensor_name=name)
    model = from_proto(proto)
    remove_unused(model, [value(model, "d")])
    written = to_proto(model).graph
    assert not written.value_info
    assert not written.quantization_annotation


# ------------------------------------------------------------------------------------- clone


def test_a_copy_writes_the_same_bytes_and_shares_no_edit():
    model = view(BRANCHES)
    copy = clone(model)
    check(copy)
    before = to_bytes(model)
    assert to_bytes(copy) == before
    b = value(copy, "b")
    copy.set_constant(b, np.float32([9, 9]))
    copy.rename(value(copy, "h"), "other")
    copy.replace_uses(value(copy, "y"), copy.add_node(copy.graph, "Neg", [value(copy, "x")]))
    copy.set_opset("", 18)
    copy.remove(node(copy, "If"))
    check(copy)
    assert to_bytes(model) == before
    check(model)
    assert to_bytes(copy) != before


def test_a_copy_of_an_edited_model_is_as_edited():
    model = view(LOOP)
    w = value(model, "w")
    model.replace_uses(w, model.add_node(model.graph, "Neg", [value(model, "x")], stem="n"))
    remove_unused(model, [w])
    copy = clone(model)
    check(copy)
    assert to_bytes(copy) == to_bytes(model)
    assert copy.edits == model.edits
    assert copy.fresh("n") == model.fresh("n") != "n"


def test_edits_are_counted():
    model = view(BRANCHES)
    seen = [model.edits]
    for edit in (
        lambda: model.set_attribute(node(model, "Add"), "a", 1),
        lambda: model.add_constant(model.graph, np.float32(1), "k"),
        lambda: model.set_constant(value(model, "b"), np.float32([0, 0])),
        lambda: model.set_opset("x", 1),
        lambda: model.rename(value(model, "h"), "other"),
    ):
        edit()
        seen.append(model.edits)
    assert seen == sorted(set(seen))


# ------------------------------------------------------------------------- attributes, opsets


def test_attributes_are_set_replaced_and_removed_and_bodies_are_not():
    model = view("g (float[2, 3] x) => (float[3, 2] y) { y = Transpose<perm = [1, 0]>(x) }")
    transpose = node(model, "Transpose")
    model.set_attribute(transpose, "perm", [0, 1])
    assert transpose.attribute("perm") == [0, 1]
    model.set_attribute(transpose, "perm", None)
    assert transpose.attribute("perm", "absent") == "absent"
    model.set_attribute(transpose, "text", "abc")
    assert transpose.attribute("text") == "abc"
    model = view(BRANCHES)
    with pytest.raises(InvalidError, match="graph"):
        model.set_attribute(node(model, "If"), "then_branch", None)


def test_the_default_operator_set_has_two_names():
    model = view('<ir_version: 8, opset_import: ["ai.onnx" : 13, "b" : 2]> '
                 "g (float[2] x) => (float[2] y) { y = ai.onnx.Relu(x) }")  # fmt: skip
    assert (model.opset(), model.opset("ai.onnx"), model.opset("b"), model.opset("c")) == (
        13,
        13,
        2,
        0,
    )
    assert node(model, "Relu").op == "Relu"
    model.set_opset("", 14)
    model.set_opset("c", 3)
    imports = {e.domain: e.version for e in to_proto(model).opset_import}
    assert imports == {"ai.onnx": 14, "b": 2, "c": 3}


def test_omitted_inputs_and_outputs_stay_omitted():
    model = view("""g (float[4] x) => (float[4] y) <float top = {2}> {
        , b = Split(x)
        c = Clip(x, , top)
        y = Concat<axis = 0>(b, b)
    }""")
    clip = node(model, "Clip")
    assert [v and v.name for v in clip.inputs] == ["x", None, "top"]
    model.set_input(clip, 1, model.add_constant(model.graph, np.float32(-1), "low"))
    assert clip.input(7) is None
    model.set_input(clip, 2, None)
    assert not value(model, "top").uses
    written = {n.op_type: n for n in to_proto(after(model)).graph.node}
    assert list(written["Clip"].input) == ["x", "low", ""]
    assert list(written["Split"].output) == ["", "b"]


# --------------------------------------------------------------------------------- invariants


def test_each_rule_finds_what_breaks_it():
    def broken(change) -> str:
        model = view(BRANCHES)
        change(model)
        with pytest.raises(InvalidError) as caught:
            check(model)
        return str(caught.value)

    def forget_use(model):
        value(model, "h").uses.clear()

    def claim_use(model):
        value(model, "h").uses[node(model, "Add"), 0] = None

    def foreign_producer(model):
        value(model, "h").producer = node(model, "Mul")

    def no_source(model):
        value(model, "b").tensor = None

    def same_name(model):
        value(model, "h").name = "b"

    def forget_exit(model):
        value(model, "y").exits.clear()

    assert "use lists" in broken(forget_use)
    assert "use lists" in broken(claim_use)
    assert "producers" in broken(foreign_producer)
    assert "sources" in broken(no_source)
    assert "names" in broken(same_name)
    assert "outputs" in broken(forget_exit)


def test_a_value_that_nothing_makes_is_found():
    for body in ("y = Add(x, missing)", "z = Abs(x)"):
        proto = parse_model(HEAD + f"g (float[2] x) => (float[2] y) {{ {body} }}")
        with pytest.raises(InvalidError, match=r"made by nothing|nothing makes"):
            check(from_proto(proto))


# ------------------------------------------------------------------------- patterns, evaluate


def test_patterns_say_what_they_found_or_why_not():
    model = view("""g (bool c, float[2] x) => (float[2] y, float[2] e)
        <float[2] w = {1, 2}, float[2] v = {1, 2}> {
        a = Neg(x)  b = Abs(a)  p = Exp(b)  q = Exp(b)  e = Relu(p)  k = Add(q, w)  f = Sub(k, v)
        s = Sum(f, v)  m = Sign(s)
        y = If (c) <then_branch = t () => (float[2] r) { r = Neg(m) },
                    else_branch = u () => (float[2] r) { r = Neg(x) }>
    }""")
    assert sole_consumer(value(model, "a"), "Abs", "Neg") is value(model, "b").producer
    reasons = {
        "a": "followed by Abs", "b": "2 uses", "e": "given out", "m": "branch"
    }  # fmt: skip
    for name, reason in reasons.items():
        found = sole_consumer(value(model, name), "Exp", "Neg")
        assert not found
        assert reason in found.reason
    assert producer(value(model, "b"), "Abs") is value(model, "b").producer
    assert "preceded by Abs" in producer(value(model, "b"), "Neg").reason
    assert "nothing makes" in producer(value(model, "x"), "Neg").reason
    assert not producer(None, "Neg")
    (found,) = constant_inputs(model, node(model, "Add"), 1)
    assert found.tolist() == [1, 2]
    assert "input 0 of Add" in constant_inputs(model, node(model, "Add"), 0, 1).reason
    assert unshared(model, value(model, "w")) is value(model, "w")
    assert "shared" in unshared(model, value(model, "v")).reason
    assert "not constant" in unshared(model, value(model, "x")).reason
    assert not unshared(model, None)


def test_a_node_of_constants_is_evaluated_and_what_fails_is_none():
    model = view("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Clip(w, , w)  b = Reshape(w, w)  y = Add(x, a)  l, r = Split<axis = 0>(w) }""")
    w = np.float32([1, 5])
    assert evaluate(model, node(model, "Clip"), [w, None, np.float32(2)])[0].tolist() == [1, 2]
    assert [a.tolist() for a in evaluate(model, node(model, "Split"), [w])] == [[1], [5]]
    assert evaluate(model, node(model, "Reshape"), [w, np.int64([7])]) is None


# -------------------------------------------------------------------------------- any edits


@given(st.data())
@settings(max_examples=60)
def test_any_sequence_of_edits_leaves_a_right_model_with_the_same_interface(data):
    model = view(data.draw(st.sampled_from([BRANCHES, LOOP])))
    before = model.interface()
    for _ in range(data.draw(st.integers(1, 8))):
        graph = data.draw(st.sampled_from(list(model.graphs())))
        seen = [v for g in model.graphs() if g.encloses(graph) for v in visible(g)]
        floats = [v for v in seen if v.name not in ("c", "n", "i", "go", "on", "still", "d")]
        old, new = (data.draw(st.sampled_from(floats)) for _ in range(2))
        edit = data.draw(st.sampled_from(["add", "replace", "rename", "clean", "copy"]))
        if edit == "add":
            if any(depends(v, made) for v in (old, new) for made in around(graph)):
                continue
            model.add_node(graph, "Sum", [old, new])
        elif edit == "replace" and not depends(new, old) and not old.is_input:
            if new.graph.encloses(old.graph):
                model.replace_uses(old, new)
        elif edit == "rename" and not any(
            old is v for v, _ in (*model.graph.inputs, *model.graph.outputs)
        ):
            model.rename(old, model.fresh("r") + "_new")
        elif edit == "clean":
            remove_unused(model, seen)
        elif edit == "copy":
            model = clone(model)
        check(model)
    assert model.interface() == before
    assert to_bytes(after(model)) == to_bytes(model)


def visible(graph) -> list[Value]:
    made = [v for n in graph.nodes for v in n.outputs if v is not None]
    return [v for v, _ in graph.inputs] + list(graph.initializers) + made


def depends(late: Value, early: Value) -> bool:
    todo, seen = [late], set()
    while todo:
        at = todo.pop()
        if at is early:
            return True
        if at.producer is not None and at.producer not in seen:
            seen.add(at.producer)
            todo += [v for v in (*at.producer.inputs, *at.producer.captures) if v is not None]
            todo += [v for _, body in at.producer.bodies for v in visible(body)]
    return False


def around(graph) -> list[Value]:
    """What the nodes around a graph make: it can be seen in the graph, but not be read there."""
    if graph.owner is None:
        return []
    return [*graph.owner.outputs, *around(graph.owner.graph)]
