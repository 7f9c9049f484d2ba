"""Patches: numbers in nodes that count or name channels, rewritten when channels go.

    Reshape(x, [2, 12, 32])  ->  Reshape(x, [2, 10, 32])      two of twelve heads gone

A patch gets `kept(ids)`, bool for each position. Where nothing it speaks of goes, it does nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node

Kept = Callable[[Array], Array]


class Patch(Protocol):
    """One such number, or some of one node."""

    @property
    def node(self) -> Node:
        """The node that has them."""

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Rewrite `node`, which stands for that of the patch."""


@dataclass(frozen=True, eq=False)
class Count:
    """An attribute is the number of positions of an axis: group, hidden_size, num_groups."""

    node: Node
    attribute: str
    ids: Array

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Set it."""
        if not kept(self.ids).all():
            model.set_attribute(node, self.attribute, int(kept(self.ids).sum()))


@dataclass(frozen=True, eq=False)
class Sizes:
    """Elements of an input, `width` in all, are numbers of positions.

    `elements`: {element: (ids that it counts, ids that it is counted of at run time or none)}.
    """

    node: Node
    slot: int
    width: int
    elements: dict[int, tuple[Array, Array]]

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Write a new constant; what is computed at run time is corrected by an Add."""
        change = np.zeros(self.width, np.int64)
        for at, (ids, source) in self.elements.items():
            change[at] = int((~kept(source)).sum()) - int((~kept(ids)).sum())
        value = node.input(self.slot)
        if value is None or not change.any():
            return
        known = model.constant(value)
        if known is not None:
            write(model, node, self.slot, np.asarray(known + change, known.dtype))
            return
        added = model.add_constant(node.graph, change, f"{value.name}_change")
        total = model.add_node(node.graph, "Add", [value, added], stem=value.name, like=node)
        model.set_input(node, self.slot, total)


@dataclass(frozen=True, eq=False)
class Parts:
    """Split: sizes of the parts."""

    node: Node
    parts: tuple[Array, ...]

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Write them out, as an input or (before operator set 13) as an attribute."""
        if all(kept(part).all() for part in self.parts):
            return
        sizes = [int(kept(part).sum()) for part in self.parts]
        if model.opset() < 13:
            model.set_attribute(node, "split", sizes)
            return
        model.set_attribute(node, "num_outputs", None)
        write(model, node, 1, np.array(sizes, np.int64))


@dataclass(frozen=True, eq=False)
class Picked:
    """Gather: constant indices into an axis; `out`: ids of the axis that they make, or None."""

    node: Node
    indices: Array
    axis: Array
    out: Array | None

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Number them anew."""
        stay = kept(self.axis)
        if stay.all():
            return
        place = np.cumsum(stay) - 1
        chosen = self.indices if self.out is None else self.indices[kept(self.out)]
        write(model, node, 1, np.asarray(place[chosen], self.indices.dtype))


@dataclass(frozen=True, eq=False)
class Bounds:
    """Slice with step 1: {axis: (ids, first, end)}."""

    node: Node
    axes: dict[int, tuple[Array, int, int]]

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Count what stays before the first and before the end."""
        if all(kept(ids).all() for ids, _, _ in self.axes.values()):
            return
        attributes = node.attribute("starts") is not None
        if attributes:
            starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
            axes = list(node.attribute("axes", range(len(starts))))
        else:
            starts, ends = (list(_ints(model, node, slot)) for slot in (1, 2))
            axes = list(_ints(model, node, 3)) if node.input(3) else list(range(len(starts)))
        for at, axis in enumerate(axes):
            for own, (ids, first, end) in self.axes.items():
                if axis == own:
                    starts[at], ends[at] = (int(kept(ids)[:stop].sum()) for stop in (first, end))
        if attributes:
            model.set_attribute(node, "starts", starts)
            model.set_attribute(node, "ends", ends)
        else:
            for slot, numbers in ((1, starts), (2, ends)):
                old = model.constant(node.input(slot))
                kind = np.int64 if old is None else old.dtype
                write(model, node, slot, np.array(numbers, kind))


@dataclass(frozen=True, eq=False)
class Padding:
    """Pad with constants: {position in pads: ids of the positions that it adds}."""

    node: Node
    added: dict[int, Array]

    def apply(self, model: Model, kept: Kept, node: Node) -> None:
        """Add fewer."""
        lost = {at: int((~kept(ids)).sum()) for at, ids in self.added.items()}
        if not any(lost.values()):
            return
        pads = node.attribute("pads")
        numbers = np.array(pads) if pads is not None else _ints(model, node, 1).copy()
        for at, count in lost.items():
            numbers[at] -= count
        if pads is not None:
            model.set_attribute(node, "pads", [int(number) for number in numbers])
        else:
            write(model, node, 1, numbers)


def write(model: Model, node: Node, slot: int, array: Array) -> None:
    """Give a node a constant of its own in a slot."""
    while len(node.inputs) <= slot:
        node.inputs.append(None)
    old = node.inputs[slot]
    stem = old.name if old is not None else f"{node.name}_{slot}"
    model.set_input(node, slot, model.add_constant(node.graph, array, f"{stem}_kept"))


def _ints(model: Model, node: Node, slot: int) -> Array:
    found = model.constant(node.input(slot))
    return np.zeros(0, np.int64) if found is None else found
