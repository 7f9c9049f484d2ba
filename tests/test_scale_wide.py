"""Graphs that are wide: thousands of readers, weights and names."""

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnx_compress.ir.graph import clone, from_proto, load, save
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.graph.partition import decoded_bytes, partition
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.runtime.pieces import Pieces

from graphs import value
from large_graphs import (
    WIDE,
    add,
    empty,
    folded,
    store,
)


def weighted(count: int) -> ModelProto:
    """A chain of nodes with a weight each."""
    proto = empty(f"h{count}", given="h0")
    for at in range(count):
        store(proto, f"w{at}", np.float32([at, -at]))
        add(proto, "Max", [f"h{at}", f"w{at}"], f"h{at + 1}")
    return proto


# --------------------------------------------------------------------------------------- breadth


def consumers(count: int = WIDE) -> ModelProto:
    proto = empty("y")
    add(proto, "Neg", ["x"], "old")
    for at in range(count):
        add(proto, "Relu", ["old"], f"r{at}")
    add(proto, "Sum", [f"r{at}" for at in range(count)], "y")
    return proto


def test_all_readers_of_a_value_are_led_to_another():
    model = from_proto(consumers())
    old = value(model, "old")
    assert len(old.uses) == len(old.consumers) == WIDE
    new = model.add_node(model.graph, "Abs", [model.inputs()[0]])
    model.replace_uses(old, new)
    check(model)
    assert not old.uses
    assert [node.output.name for node in new.consumers] == [f"r{at}" for at in range(WIDE)]
    model.remove(old.producer)
    check(model)
    assert "Neg" not in {node.op for node in model.graph.nodes}


def test_some_readers_of_a_value_are_led_to_another():
    model = from_proto(consumers())
    old, new = value(model, "old"), model.inputs()[0]
    chosen = {f"r{at}" for at in range(0, WIDE, 2)}
    model.replace_uses(old, new, only=lambda node: node.output.name in chosen)
    check(model)
    assert {node.output.name for node in new.consumers} == {"old"} | chosen
    assert len(old.uses) == WIDE - len(chosen)


def test_a_node_that_reads_one_value_often_is_led_to_another():
    proto = empty("y")
    add(proto, "Neg", ["x"], "old")
    add(proto, "Sum", ["old"] * WIDE, "y")
    model = from_proto(proto)
    old, new = value(model, "old"), model.inputs()[0]
    assert len(old.uses) == WIDE
    assert len(old.consumers) == 1
    model.replace_uses(old, new)
    check(model)
    (reader,) = (node for node in model.graph.nodes if node.op == "Sum")
    assert reader.inputs == [new] * WIDE


def test_readers_in_bodies_are_led_to_another():
    def branch(at: int, which: str):
        node = helper.make_node("Add", ["old", "x"], [f"{which}{at}"])
        result = helper.make_tensor_value_info(f"{which}{at}", 1, [2])
        return helper.make_graph([node], which, [], [result])

    proto = empty("y")
    store(proto, "c", np.array(True))
    add(proto, "Neg", ["x"], "old")
    for at in range(1000):
        bodies = {f"{which}_branch": branch(at, which) for which in ("then", "else")}
        proto.graph.node.append(helper.make_node("If", ["c"], [f"r{at}"], **bodies))
    add(proto, "Sum", [f"r{at}" for at in range(1000)], "y")
    model = from_proto(proto)
    old, new = value(model, "old"), model.add_node(model.graph, "Abs", [model.inputs()[0]])
    assert len(old.uses) == 2000
    model.replace_uses(old, new)
    check(model)
    check(clone(model))
    assert len(new.uses) == 2000
    assert all(old not in node.captures for node in model.graph.nodes)
    (part,) = partition(model, 1 << 20)
    assert sum(node.op == "If" for node in part.nodes) == 1000


# --------------------------------------------------------------------------------------- weights


def test_thousands_of_weights_are_read_written_and_removed(tmp_path):
    proto = weighted(5000)
    for tensor in proto.graph.initializer[:50]:  # these do not stay in the proto
        tensor.CopyFrom(numpy_helper.from_array(np.zeros((1024, 2), np.float32), tensor.name))
    model = from_proto(proto)
    assert decoded_bytes(model) == 4950 * 8 + 50 * 8192
    save(model, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    assert [v.name for v in again.graph.initializers] == [f"w{at}" for at in range(5000)]
    assert again.constant(value(again, "w4999")).tolist() == [4999, -4999]
    again.replace_uses(again.outputs()[0], again.add_node(again.graph, "Abs", again.inputs()))
    assert remove_unused(again, [v for node in again.graph.nodes for v in node.outputs]) == 10_000
    check(again)


def test_thousands_of_weights_that_are_listed_as_inputs_are_removed():
    proto = weighted(5000)
    proto.ir_version = 3
    infos = [helper.make_tensor_value_info(f"w{at}", 1, [2]) for at in range(5000)]
    proto.graph.input.extend(infos)
    model = from_proto(proto)
    model.replace_uses(model.outputs()[0], model.add_node(model.graph, "Abs", model.inputs()))
    remove_unused(model, [v for node in model.graph.nodes for v in node.outputs])
    check(model)
    assert [v.name for v, _ in model.graph.inputs] == ["h0"]


def test_equal_weights_are_shared_among_thousands():
    proto = weighted(5000)
    for at, tensor in enumerate(proto.graph.initializer):
        array = np.float32([at // 2, 1])
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert len(folded(proto).graph.initializers) == 2500


def test_a_graph_is_cut_into_thousands_of_parts():
    model = from_proto(weighted(5000))
    parts = partition(model, 1)
    assert [[node.output.name for node in part.nodes] for part in parts] == [
        [f"h{at + 1}"] for at in range(5000)
    ]


def test_a_graph_is_run_in_hundreds_of_pieces():
    proto = weighted(400)
    feed = {"h0": np.float32([-9, -9])}
    session = Pieces(from_proto(proto))
    session._parts = partition(session.model, 8)
    assert len(session._parts) == 400
    np.testing.assert_array_equal(session.run(feed), Session(from_proto(proto)).run(feed))


# ----------------------------------------------------------------------------------------- names


def test_names_of_one_stem_stay_unique():
    model = from_proto(consumers(2))
    made = [model.fresh("stem") for _ in range(WIDE)]
    copy = clone(model)
    made += [copy.fresh("stem") for _ in range(WIDE)]
    assert len({*made, "x", "old"}) == 2 * WIDE + 2


def test_names_of_one_stem_avoid_those_that_are_there():
    proto = empty("y")
    names = ["Neg_out", *(f"Neg_out_{at}" for at in range(1, WIDE))]
    for name in names:
        add(proto, "Neg", ["x"], name)
    add(proto, "Sum", names, "y")
    model = from_proto(proto)
    made = {model.add_node(model.graph, "Neg", model.inputs()).name for _ in range(WIDE)}
    assert len(made | set(names)) == 2 * WIDE
    check(model)


def test_names_of_many_outputs_that_are_replaced_stay():
    proto = empty(*(f"y{at}" for at in range(1000)))
    for at in range(1000):
        add(proto, "Neg", ["x"], f"y{at}")
    model = from_proto(proto)
    for output in model.outputs():
        model.replace_uses(output, model.add_node(model.graph, "Abs", model.inputs(), stem="n"))
    check(model)
    assert [output.name for output in model.outputs()] == [f"y{at}" for at in range(1000)]
    assert {output.producer.op for output in model.outputs()} == {"Abs"}
