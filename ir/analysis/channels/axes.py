"""Axes: a number for every position along every axis of every value, and what ties them.

    x [N, C, H, W]     ids of C positions          Conv: ids of x's axis 1 = ids of W's axis 1
    W [O, C, k, k]     ids of O, of C positions          ids of W's axis 0 = ids of y's axis 1

Three things are said of ids: two are the same channel, a channel stays (with the reason), or the
positions of a flat axis are those of a grid: one goes where its row or its column does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from onnx_compress.ir.analysis.channels.patches import Patch
from onnx_compress.ir.analysis.shapes import Shapes
from onnx_compress.ir.graph.elements import STRING, Array, Tensor, dims, element_type, nbytes
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value

Key = Value | tuple[Node, int]
LARGEST = 1 << 22  # positions of a grid
_COPIED = 1 << 16  # bytes; a vector up to this may become another one for each of its uses
ONE = np.zeros(1, np.int64)  # the ids of an axis of one position: it always stays


class UnknownShape(Exception):
    """A value whose shape is not known."""


@dataclass(frozen=True, eq=False)
class Grid:
    """`flat` [n0 * n1 * ...] are the positions of a grid with the axes `factors`."""

    flat: Array
    factors: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """Input `slot` of a node is summed over along an axis."""

    node: Node
    slot: int
    axis: int


@dataclass(frozen=True, eq=False)
class Work:
    """A share of a node's multiply-accumulates, in proportion to what stays of each axis."""

    node: Node
    share: float
    axes: tuple[Array, ...]


@dataclass(eq=False)
class Axes:
    """All ids of a model, and what is said of them."""

    model: Model
    shapes: Shapes
    ids: dict[Key, tuple[Array, ...]] = field(default_factory=dict)
    constants: dict[Key, Tensor] = field(default_factory=dict)
    equal: list[tuple[Array, Array]] = field(default_factory=list)
    stays: list[tuple[Array, str]] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    count: int = 1

    def new(self, size: int) -> Array:
        """Ids of one more axis."""
        if size == 1:
            return ONE
        self.count += size
        return np.arange(self.count - size, self.count)

    def of(self, value: Value, node: Node | None = None, slot: int = 0) -> tuple[Array, ...]:
        """Ids of the axes of a value, as a node reads it in a slot. Raises UnknownShape.

        Short vectors have ids of their own for each use, since they can be copied.
        """
        key: Key = value
        tensor = self.model.tensor(value)
        if node is not None and self.copied(value):
            key = (node, slot)
        found = self.ids.get(key)
        if found is None:
            shape = dims(tensor) if tensor is not None else self.shapes.shape(value)
            if shape is None:
                raise UnknownShape
            found = self.ids[key] = tuple(self.new(size) for size in shape)
            if tensor is not None and element_type(tensor) != STRING:
                self.constants[key] = tensor
            if tensor is not None and element_type(tensor) == STRING:
                for ids in found:
                    self.stay(ids, "text")
        return found

    def copied(self, value: Value) -> bool:
        """Whether a constant, a vector, may become another one for each of its uses."""
        tensor = self.model.tensor(value)
        if tensor is None or len(value.uses) < 2 or element_type(tensor) == STRING:
            return False
        return nbytes(tensor) <= _COPIED and sum(size > 1 for size in dims(tensor)) < 2

    def always(self, value: Value, axis: int) -> bool:
        """Whether an axis has the same size in every run."""
        known = self.fixed.get(value)
        return known is not None and known.shape is not None and isinstance(known.shape[axis], int)

    @cached_property
    def fixed(self) -> dict[Value, TensorType]:
        """Types that hold for every run."""
        return infer(self.model)

    def same(self, one: Array, other: Array) -> None:
        """Positions of two axes are the same channels; nothing if one is an axis of one."""
        if len(one) == len(other) > 1:
            self.equal.append((one, other))

    def stay(self, ids: Array, reason: str) -> None:
        """These positions cannot be removed."""
        if len(ids) > 1 or (len(ids) and ids[0]):
            self.stays.append((ids, reason))

    def grid(self, flat: Array, factors: Sequence[Array]) -> None:
        """`flat` is the product of `factors`."""
        wide = [factor for factor in factors if len(factor) > 1]
        if len(wide) == 1:
            self.same(flat, wide[0])
        elif wide and prod(map(len, wide)) <= LARGEST:
            self.grids.append(Grid(flat, tuple(wide)))
        else:
            for ids in (flat, *wide):
                self.stay(ids, "an axis that is too long to follow")


class Ports:
    """The axes of one node, for its rule. Those that the rule does not ask for stay.

    Raises UnknownShape where a shape is not known.
    """

    def __init__(self, axes: Axes, node: Node) -> None:
        self.axes, self.node, self.model = axes, node, axes.model
        self._asked: set[tuple[bool, int, int]] = set()

    def read(self, slot: int, axis: int) -> Array:
        """Ids of an axis of an input."""
        ids = self._all(slot)
        axis %= max(len(ids), 1)
        self._asked.add((False, slot, axis))
        return ids[axis]

    def made(self, axis: int, slot: int = 0) -> Array:
        """Ids of an axis of an output."""
        ids = self._all(slot, True)
        axis %= max(len(ids), 1)
        self._asked.add((True, slot, axis))
        return ids[axis]

    def _all(self, slot: int, made: bool = False) -> tuple[Array, ...]:
        if made:
            value = self.node.outputs[slot] if slot < len(self.node.outputs) else None
            return self.axes.of(value) if value is not None else ()
        value = self.node.input(slot)
        return self.axes.of(value, self.node, slot) if value is not None else ()

    def has(self, slot: int) -> bool:
        """Whether an input is there."""
        return self.node.input(slot) is not None

    def shape(self, slot: int) -> tuple[int, ...]:
        """Of an input."""
        return tuple(map(len, self._all(slot)))

    def made_shape(self, slot: int = 0) -> tuple[int, ...]:
        """Of an output."""
        return tuple(map(len, self._all(slot, True)))

    def constant(self, slot: int) -> Array | None:
        """Numbers of an input, if they are constant."""
        return self.model.constant(self.node.input(slot))

    def same(self, one: Array, other: Array) -> None:
        """Positions of two axes are the same channels."""
        self.axes.same(one, other)

    def summed(self, slot: int, axis: int) -> None:
        """The node sums over an axis of an input."""
        self.axes.sums.append(Sum(self.node, slot, axis % max(len(self._all(slot)), 1)))

    def works(self, *axes: Array, share: float = 1.0) -> None:
        """A share of the node's work is in proportion to these axes."""
        self.axes.work.append(Work(self.node, share, axes))

    def patch(self, patch: Patch) -> None:
        """What is to be rewritten when channels go."""
        self.axes.patches.append(patch)

    def close(self, reason: str) -> None:
        """Axes that were not asked for stay."""
        for made, count in ((False, len(self.node.inputs)), (True, len(self.node.outputs))):
            for slot in range(count):
                try:
                    for axis, ids in enumerate(self._all(slot, made)):
                        if (made, slot, axis) not in self._asked:
                            self.axes.stay(ids, reason)
                except UnknownShape:
                    continue
