"""Graphs that are deep: no work on them is recursive, or takes longer than their size."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from onnx_compress.ir.graph import Model, clone, from_proto, to_proto
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.ir.graph.inference import infer
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.graph.partition import extract, partition
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights

from large_graphs import (
    WIDE,
    add,
    empty,
    folded,
    store,
)

DEEP = 20_000
DEEPER_THAN_CALLS = 3000  # where the work on a node takes longer


def reversed_chain(length: int = DEEP) -> ModelProto:
    """Written from the last node to the first."""
    proto = empty(f"v{length}", given="v0")
    for at in reversed(range(length)):
        add(proto, "Neg", [f"v{at}"], f"v{at + 1}")
    return proto


def ladder(length: int = DEEP) -> ModelProto:
    """Each node reads the two before it: 2^n ways through n nodes."""
    proto = empty(f"v{length}")
    add(proto, "Neg", ["x"], "v0")
    add(proto, "Abs", ["x"], "v1")
    for at in range(2, length + 1):
        add(proto, "Max", [f"v{at - 1}", f"v{at - 2}"], f"v{at}")
    return proto


def constants(length: int = DEEP) -> ModelProto:
    """A long chain of constants, each computed from the one before it twice."""
    proto = empty("y")
    store(proto, "v0", np.float32([1, -2]))
    for at in range(length):
        add(proto, "Max", [f"v{at}", f"v{at}"], f"v{at + 1}")
    add(proto, "Add", ["x", f"v{length}"], "y")
    return proto


def comb(length: int = DEEP) -> ModelProto:
    """A chain of constants, each of which is read by a node of its own."""
    proto = empty("h" + str(length), given="h0")
    store(proto, "v0", np.float32([1, -2]))
    for at in range(length):
        add(proto, "Neg", [f"v{at}"], f"v{at + 1}")
        add(proto, "Max", [f"h{at}", f"v{at + 1}"], f"h{at + 1}")
    return proto


def reach(model: Model) -> list[str]:
    return [node.output.name for node in model.graph.sorted()]


GRAPHS: dict[str, Callable[..., ModelProto]] = {
    "a chain in reverse": reversed_chain,
    "a ladder": ladder,
    "a chain of constants": constants,
    "constants with readers": comb,
}


# --------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize("name", GRAPHS)
def test_deep_graphs_are_sorted_copied_and_written(name):
    model = from_proto(GRAPHS[name]())
    check(model)
    copy = clone(model)
    check(copy)
    order = reach(model)
    assert len(order) == len(model.graph.nodes) >= DEEP
    assert reach(copy) == order
    assert [node.output[0] for node in to_proto(copy).graph.node] == order


@pytest.mark.parametrize("name", GRAPHS)
def test_deep_graphs_are_inferred(name):
    model = from_proto(GRAPHS[name](DEEPER_THAN_CALLS))
    types = infer(model)
    assert types[model.outputs()[0]].static == (2,)
    assert len(types) >= DEEPER_THAN_CALLS


def test_deep_constants_are_known_to_be_fixed():
    for make, count in ((constants, DEEP), (comb, WIDE), (ladder, 0)):
        model = from_proto(make(count or DEEP))
        assert len(fixed_nodes(model, [model.graph])) == count


@pytest.mark.parametrize("make", [reversed_chain, ladder, constants, lambda: comb(1000)])
def test_deep_graphs_are_cut_and_taken_apart(make):
    model = from_proto(make())
    (part,) = partition(model, 1 << 30)
    assert len(part.nodes) == len(model.graph.nodes)
    piece = extract(model, part, dict.fromkeys(part.reads, TensorProto.FLOAT))
    assert reach(piece)[-1] == model.outputs()[0].name


@pytest.mark.parametrize("name", ["a chain in reverse", "a ladder"])
def test_deep_graphs_are_removed_when_nothing_reads_them(name):
    model = from_proto(GRAPHS[name]())
    last = model.outputs()[0]
    model.replace_uses(last, model.add_node(model.graph, "Exp", [model.inputs()[0]]))
    count = len(model.graph.nodes)
    assert remove_unused(model, [last]) == count - 1
    check(model)


@pytest.mark.parametrize("make", [reversed_chain, ladder])
def test_deep_graphs_with_nothing_to_fold_stay(make):
    proto = make(DEEPER_THAN_CALLS)
    assert reach(folded(proto)) == reach(from_proto(proto))


@pytest.mark.parametrize("make", [constants, comb])
def test_deep_expressions_of_constants_are_folded(make):
    proto = make(1500)
    model = folded(proto)
    assert not fixed_nodes(model, [model.graph])
    feed = {model.inputs()[0].name: np.float32([0.5, -7])}
    found, expected = Session(model).run(feed), Session(from_proto(proto)).run(feed)
    np.testing.assert_array_equal(found[0], expected[0])


def test_deep_identities_are_folded():
    proto = empty(f"v{DEEPER_THAN_CALLS}", given="v0")
    for at in range(DEEPER_THAN_CALLS):
        add(proto, "Identity" if at % 2 else "Neg", [f"v{at}"], f"v{at + 1}")
    assert {node.op for node in list(folded(proto).graph.nodes)[:-1]} == {"Neg"}


def test_a_long_way_to_a_weight_is_given_up_or_followed():
    proto = empty("y")
    store(proto, "v0", np.ones((2, 2), np.float32))
    for at in range(DEEP):
        add(proto, "Identity", [f"v{at}"], f"v{at + 1}")
    add(proto, "MatMul", ["x", f"v{DEEP}"], "y")
    assert len(tuple(find_weights(from_proto(proto)))) <= 1
