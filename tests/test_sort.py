"""The order of nodes: after what they read, and otherwise where they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import clone, from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.invariants import check

from graphs import HEAD, after


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
