"""Symbols: lists of sizes that a model computes from shapes, element by element.

    Shape(x) -> Gather(0) -> Unsqueeze -> Concat(_, 12, 32)      [dim 0 of x, 12, 32]

An element is a number, an axis of a value, or unknown, with the axes that it depends on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value


@dataclass(frozen=True)
class Dim:
    """The size of an axis."""

    value: Value
    axis: int


@dataclass(frozen=True)
class Unclear:
    """A number computed from these sizes."""

    dims: frozenset[Dim]


Element = int | Dim | Unclear
_LONGEST = 64
_COMPUTED: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Max": np.maximum,
    "Min": np.minimum,
}


class Symbols:
    """What is known of the lists of sizes of a model. Nodes are to be shown in order."""

    def __init__(self, model: Model, rank: Callable[[Value], int | None]) -> None:
        self.model, self._rank = model, rank
        self.known: dict[Value, Array] = {}  # of elements, as objects

    def elements(self, value: Value | None) -> Array | None:
        """The elements of a constant, or of what was seen so far."""
        if value is None:
            return None
        if value in self.known:
            return self.known[value]
        found = self.model.constant(value)
        if found is None or found.size > _LONGEST or found.dtype.kind not in "iub":
            return None
        return found.astype(object)

    def dims(self, value: Value | None) -> frozenset[Dim]:
        """All axes that a list depends on; empty for what is no such list."""
        if value is None or value not in self.known:
            return frozenset()
        return _dims(self.known[value].reshape(-1).tolist())

    def show(self, node: Node) -> bool:
        """Note what a node computes; whether it is a step of computing sizes."""
        step = _STEPS.get(node.op)
        if step is None or not node.outputs or node.outputs[0] is None:
            return False
        if node.op != "Shape" and not any(v in self.known for v in node.inputs if v):
            return False
        try:
            found = step(self, node)
        except (TypeError, ValueError, IndexError):
            return False
        if found is None:
            return False
        self.known[node.outputs[0]] = np.asarray(found, dtype=object)
        return True

    def _shape(self, node: Node) -> Any:
        value = node.input(0)
        rank = self._rank(value) if value is not None else None
        if value is None or rank is None:
            return None
        whole = [Dim(value, axis) for axis in range(rank)]
        return whole[slice(node.attribute("start", 0), node.attribute("end"))]

    def _as_it_is(self, node: Node) -> Any:
        return self.elements(node.input(0))

    def _gather(self, node: Node) -> Any:
        data, indices = self.elements(node.input(0)), self.model.constant(node.input(1))
        return None if data is None or indices is None else data[indices]

    def _slice(self, node: Node) -> Any:
        data = self.elements(node.input(0))
        first, end = (self.model.constant(node.input(slot)) for slot in (1, 2))
        step = self.model.constant(node.input(4))
        if data is None or first is None or end is None or len(first) != 1:
            return None
        return data[int(first[0]) : int(end[0]) : 1 if step is None else int(step[0])]

    def _concat(self, node: Node) -> Any:
        parts = [self.elements(value) for value in node.inputs]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None

    def _flat(self, node: Node) -> Any:
        data = self.elements(node.input(0))
        return None if data is None else data.reshape(-1)

    def _squeezed(self, node: Node) -> Any:
        data = self.elements(node.input(0))
        return None if data is None else data.reshape(()) if data.size == 1 else data

    def _computed(self, node: Node) -> Any:
        parts = [self.elements(value) for value in node.inputs]
        if any(part is None for part in parts):
            return None
        return np.vectorize(lambda *e: _apply(node.op, e), otypes=[object])(*parts)

    def _where(self, node: Node) -> Any:
        parts = [self.elements(value) for value in node.inputs]
        if any(part is None for part in parts):
            return None
        return np.vectorize(_choose, otypes=[object])(*parts)


def _apply(op: str, elements: tuple[Element, ...]) -> Element:
    if op == "Equal" and any(e == -1 for e in elements) and _dims(elements):
        return 0  # a size is never -1
    if _dims(elements) or any(isinstance(e, Unclear) for e in elements):
        return Unclear(_dims(elements))
    return int(_COMPUTED[op](*elements))


def _choose(condition: Element, one: Element, other: Element) -> Element:
    if isinstance(condition, int):
        return one if condition else other
    return Unclear(_dims((condition, one, other)))


def _dims(elements: Any) -> frozenset[Dim]:
    found: set[Dim] = set()
    for element in elements:
        if isinstance(element, Dim):
            found.add(element)
        elif isinstance(element, Unclear):
            found |= element.dims
    return frozenset(found)


_STEPS: dict[str, Callable[[Symbols, Node], Any]] = {
    "Shape": Symbols._shape,
    "Identity": Symbols._as_it_is,
    "Cast": Symbols._as_it_is,
    "Gather": Symbols._gather,
    "Slice": Symbols._slice,
    "Concat": Symbols._concat,
    "Unsqueeze": Symbols._flat,
    "Squeeze": Symbols._squeezed,
    "Reshape": Symbols._flat,
    "Where": Symbols._where,
    **dict.fromkeys(_COMPUTED, Symbols._computed),
}
