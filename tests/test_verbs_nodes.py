"""Nodes: adding them, taking them away, setting attributes, inputs and operator sets."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.invariants import check

from graphs import BRANCHES, HEAD, after, node, run, value, view

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


def test_of_many_nodes_for_one_the_first_carries_its_metadata():
    model = view("g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }")
    relu = node(model, "Relu")
    relu.proto.metadata_props.add(key="stack_trace", value="a long story")
    b = Builder(model, model.graph, "s", relu)
    out = b("Neg", b("Abs", relu.output))
    abs_ = out.producer.inputs[0].producer
    assert [entry.value for entry in abs_.proto.metadata_props] == ["a long story"]
    assert not out.producer.proto.metadata_props


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
