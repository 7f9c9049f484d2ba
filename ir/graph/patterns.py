"""Patterns: functions that look at a place in the graph and say what they found, or why not.

found = sole_consumer(conv.output, "BatchNormalization")
if not found:
    skip(conv, found.reason)
"""

from dataclasses import dataclass

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value


@dataclass(frozen=True)
class No:
    """A failed match. False in a condition; `reason` is shown to the user."""

    reason: str

    def __bool__(self) -> bool:
        return False


def sole_consumer(value: Value, *ops: str) -> Node | No:
    """The only node that reads a value, of one of the given operators, in the same graph."""
    if value.exits:
        return No("its output is given out by a graph")
    if len(value.uses) != 1:
        return No(f"its output has {len(value.uses)} uses")
    ((node, _),) = value.uses
    if node.op not in ops:
        return No(f"followed by {node.op}")
    if node.graph is not value.graph:
        return No("its output is used in a branch")
    return node


def added_behind(node: Node) -> tuple[Node, int] | No:
    """The Add that alone reads what a node gives, past Identity, and where it reads its other term.

    MatMul --> Identity --> Add(_, b)      ->      Add, 1
    """
    out = node.output
    while True:
        reader = sole_consumer(out, "Add", "Identity")
        if isinstance(reader, No):
            return reader
        if reader.op == "Add":
            return reader, 1 if reader.input(0) is out else 0
        out = reader.output


def before_identity(value: Value | None) -> Value | None:
    """What Identity, once or more often, passes on."""
    while value is not None and value.producer is not None and value.producer.op == "Identity":
        value = value.producer.input(0)
    return value


def producer(value: Value | None, *ops: str) -> Node | No:
    """The node that makes a value, of one of the given operators, in the same graph."""
    if value is None or value.producer is None:
        return No("nothing makes its input")
    if value.producer.op not in ops:
        return No(f"preceded by {value.producer.op}")
    return value.producer


def constant_inputs(model: Model, node: Node, *slots: int) -> list[Array] | No:
    """The numbers of constant inputs."""
    found: list[Array] = []
    for slot in slots:
        array = model.constant(node.input(slot))
        if array is None:
            return No(f"input {slot} of {node.op} is not constant")
        found.append(array)
    return found


def unshared(model: Model, value: Value | None) -> Value | No:
    """A constant that one node alone reads, so that it may be changed for it."""
    if model.tensor(value) is None or value is None:
        return No("its weight is not constant")
    if len(value.uses) != 1 or value.exits:
        return No("its weight is shared")
    return value
