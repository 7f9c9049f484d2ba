"""Weights of plain operators: constant operands, and rows picked as codes.

MatMul(x, Mul(Cast(q), s))                       q s
Mul(Cast(Gather(q, ids)), Gather(s, ids))        q s
"""

from collections.abc import Callable, Iterator

import numpy as np

from onnx_compress.ir.graph.elements import Array, dims, element_type, type_name
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights.effective.base import Effective, followed, linear_steps
from onnx_compress.ir.weights.operators import OPERATORS

_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")
_LINEAR = frozenset(
    "Identity Cast Sub Mul DequantizeLinear Transpose Reshape Squeeze Unsqueeze Flatten "
    "Slice".split()
)
_PICKED = ("Cast", "Sub", "Mul", "DequantizeLinear")


def plain(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """Of each slot of an operator in OPERATORS whose operand depends on constants alone."""
    operator = OPERATORS.get(node.op)
    if operator is None or folded.is_constant(node.output):
        return  # nothing, or a part of how a weight is decoded
    for slot, read in operator.slots.items():
        value = node.input(slot)
        if value is None or not folded.is_constant(value):
            continue
        if operator.gathers:
            picked = _picked(model, node)
            if picked is not None:
                yield picked
                continue
        shape = _shape(model, value)
        if shape is not None and isinstance(read(node, shape), No):
            continue
        codes = _largest(model, folded, _sources(model, value, frozenset()))
        unpacked = _largest(model, folded, _sources(model, value, _LINEAR))
        decode = _operand(model, value, unpacked)
        steps = linear_steps(model, unpacked, decode)
        yield Effective(node, slot, node.output, decode, codes, steps)


def _operand(
    model: Model, value: Value, codes: Value | None
) -> Callable[[Array | None], Array | None]:
    def decode(other: Array | None) -> Array | None:
        given = {codes: other} if codes is not None and other is not None else {}
        return Folded(model, given).array(value)

    return decode


def _shape(model: Model, value: Value) -> tuple[int, ...] | None:
    """Where it is stored just so; else it is told when it is decoded."""
    tensor = model.tensor(value)
    return None if tensor is None else dims(tensor)


def _sources(model: Model, value: Value, through: frozenset[str]) -> list[Value]:
    """What a constant is computed from: by these operators; without any, what is stored."""
    found: dict[Value, None] = {}
    todo, seen = [value], {value}
    while todo:
        at = todo.pop()
        node = at.producer
        if model.tensor(at) is not None or node is None or (through and node.op not in through):
            found[at] = None
            continue
        new = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(new)
        todo += new
    return list(found)


def _largest(model: Model, folded: Folded, values: list[Value]) -> Value | None:
    """The one of most numbers: the codes, not their scales."""

    def count(value: Value) -> int:
        shape = _shape(model, value)
        if shape is None:
            array = folded.array(value)
            shape = () if array is None else array.shape
        return int(np.prod(shape, dtype=np.int64))

    return max(values, key=count, default=None)


def _picked(model: Model, node: Node) -> Effective | None:
    """Rows picked as codes and decoded after that; None where they are picked as they are."""
    table, ids = node.input(0), node.input(1)
    tensor = model.tensor(table)
    if tensor is None or ids is None or type_name(element_type(tensor)) in ("FLOAT", "DOUBLE"):
        return None
    shape = dims(tensor)
    if not shape:
        return None
    axis = node.attribute("axis", 0) % len(shape)
    given = {ids: np.arange(shape[axis])}
    end = followed(node.output, _PICKED, Folded(model, given))
    plain = type_name(element_type(tensor)) in _FLOATS
    if end is node.output and not plain:
        return None  # a table of integers, and no weight

    def decode(other: Array | None) -> Array | None:
        replaced = {table: other} if table is not None and other is not None else {}
        return Folded(model, {**given, **replaced}).array(end)

    return Effective(node, 0, end, decode, table, linear_steps(model, table, decode))
