"""find_channels(): the channels of a model, in groups, and why others stay."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import prod

import numpy as np

from onnx_compress.ir.analysis.channels.axes import Axes, Key, Ports, UnknownShape
from onnx_compress.ir.analysis.channels.rules import RULES, SIZE_SLOTS, SIZED
from onnx_compress.ir.analysis.channels.solve import Closure, Solution, solve
from onnx_compress.ir.analysis.channels.symbols import Symbols
from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.analysis.shapes import Shapes
from onnx_compress.ir.graph.elements import Array, nbytes
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one kind: all of `members` stand in the same axes of the same constants.

    A member is a set of channels that go together. `axes`: (constant, axis); `width`: positions
    of an axis that a member takes.
    """

    name: str
    members: tuple[Array, ...]
    axes: tuple[tuple[Key, int], ...]
    width: int

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.members)


@dataclass(eq=False)
class Channels:
    """All channels of a model."""

    axes: Axes
    solution: Solution
    groups: tuple[Group, ...]
    stuck: dict[str, int]  # reason: positions of axes of constants that stay for it

    @property
    def model(self) -> Model:
        """What they are the channels of."""
        return self.axes.model

    def none(self) -> Array:
        """Nothing removed: False for each channel."""
        return np.zeros(len(self.solution.stays), bool)

    def removed(self, *members: Array) -> Array:
        """True for the channels of these members."""
        gone = self.none()
        for member in members:
            gone[member] = True
        return gone

    def gone(self, ids: Array, removed: Array) -> Array:
        """Which positions of an axis go."""
        return np.asarray(removed[self.solution.channel[ids]])

    def empties(self, removed: Array) -> bool:
        """Whether nothing would be left of some axis."""
        flat, starts = self._flat
        return bool((np.add.reduceat(~removed[flat], starts) == 0).any()) if len(starts) else False

    @cached_property
    def _flat(self) -> tuple[Array, Array]:
        """The channels of all axes one after the other, and where each begins."""
        wide = [ids for found in self.axes.ids.values() for ids in found if len(ids) > 1]
        sizes = np.cumsum([0, *map(len, wide)])
        flat = np.concatenate(wide) if wide else np.zeros(0, np.int64)
        return self.solution.channel[flat], sizes[:-1].astype(np.int64)

    @cached_property
    def _macs(self) -> dict[Node, int]:
        nodes = {work.node for work in self.axes.work}
        return {node: macs(node, self.axes.shapes) or 0 for node in nodes}

    @property
    def works(self) -> int:
        """How many of the `terms` are of MACs."""
        return len(self.axes.work)

    def terms(self) -> Iterator[tuple[float, list[Array]]]:
        """Shares of the MACs, then the bytes of constants; each in proportion to some axes."""
        for work in self.axes.work:
            yield self._macs[work.node] * work.share, [ids for ids in work.axes if len(ids) > 1]
        for key, tensor in self.axes.constants.items():
            yield float(nbytes(tensor)), [ids for ids in self.axes.ids[key] if len(ids) > 1]

    def moved(self) -> Iterator[tuple[float, list[Array]]]:
        """Numbers of values that nodes of the main graph give, in proportion to some axes."""
        for key, own in self.axes.ids.items():
            if isinstance(key, Value) and key.producer is not None and self._moves(key):
                yield float(prod(map(len, own))), [ids for ids in own if len(ids) > 1]

    def all_moved(self) -> float:
        """Numbers that all nodes of the main graph give."""
        shapes = [
            self.axes.shapes.shape(value)
            for node in self.model.graph.nodes
            for value in node.outputs
            if value is not None and self._moves(value)
        ]
        return float(sum(prod(shape) for shape in shapes if shape is not None))

    def all_macs(self) -> float:
        """Multiply-accumulates of a run, of all nodes."""
        return float(sum(macs(node, self.axes.shapes) or 0 for node in self.model.nodes()))

    def _moves(self, value: Value) -> bool:
        return value not in self.axes.constants and value.graph is self.model.graph

    def macs(self, removed: Array) -> float:
        """Multiply-accumulates of a run without these channels, of what has to do with any."""
        return sum(self._left(*term, removed) for term in islice(self.terms(), self.works))

    def nbytes(self, removed: Array) -> float:
        """Bytes of all constants without these channels."""
        return sum(self._left(*term, removed) for term in islice(self.terms(), self.works, None))

    def _left(self, size: float, axes: list[Array], removed: Array) -> float:
        return size * prod(1 - float(self.gone(ids, removed).mean()) for ids in axes)

    def constant(self, key: Key) -> Array | None:
        """The numbers of a constant, or of one use of it."""
        return self.model.constant(key if isinstance(key, Value) else key[0].input(key[1]))


def find_channels(model: Model, shapes: Shapes) -> Channels:
    """The channels of a model; `shapes` are those of a run."""
    axes = read_axes(model, shapes)
    solution = solve(axes)
    groups = _groups(axes, solution)
    stuck: Counter[str] = Counter()
    for key, ids in axes.ids.items():
        for own in ids if key in axes.constants else ():
            channels = solution.channel[own]
            held = channels[solution.stays[channels]]
            stuck.update(solution.reason(channel) for channel in held.tolist() if len(own) > 1)
    return Channels(axes, solution, groups, dict(stuck.most_common()))


def read_axes(model: Model, shapes: Shapes) -> Axes:
    """What the rules say of all nodes."""
    axes = Axes(model, shapes)

    def rank(value: Value) -> int | None:
        shape = shapes.shape(value)
        return None if shape is None else len(shape)

    symbols = Symbols(model, rank)
    for graph in model.graphs():
        main = graph is model.graph
        for value, _ in graph.inputs:
            if model.tensor(value) is not None:  # in format 3 stored tensors are listed, too
                continue
            _hold(axes, value, "an input of the model" if main else "an input of a body")
        owner = graph.owner.op if graph.owner else ""
        for value, _ in graph.outputs:
            if owner != "If":
                _hold(axes, value, "an output of the model" if main else f"given out by {owner}")
        for value in graph.initializers:
            if value.held:
                _hold(axes, value, "training_info or an annotation refers to it")
        for node in graph.sorted():
            _visit(axes, node, symbols)
    return axes


def _hold(axes: Axes, value: Value, reason: str) -> None:
    try:
        for ids in axes.of(value):
            axes.stay(ids, reason)
    except UnknownShape:
        return


def _visit(axes: Axes, node: Node, symbols: Symbols) -> None:
    ports = Ports(axes, node)
    step = symbols.show(node)
    for slot, value in enumerate(node.inputs):
        if not step and SIZE_SLOTS.get(node.op) != slot:
            for dim in symbols.dims(value):
                axes.stay(axes.of(dim.value)[dim.axis], f"{node.op} computes with its size")
    reason = f"{node.op} does not carry it"
    try:
        if node.op in SIZED:
            SIZED[node.op](ports, symbols)
        elif node.op in RULES:
            RULES[node.op](ports)
        elif node.op == "Shape":  # what is computed from it is followed by `symbols`
            for axis in range(len(ports.shape(0))):
                ports.read(0, axis)
        elif node.op == "Constant":
            if not axes.copied(node.output):
                for axis in range(len(ports.made_shape())):
                    ports.made(axis)
        else:
            reason = f"{node.op} is not known"
    except UnknownShape:
        ports = Ports(axes, node)
        reason = f"shapes at {node.op} are not known"
    ports.close(reason)


def _groups(axes: Axes, solution: Solution) -> tuple[Group, ...]:
    """Sets that can go together, by where they stand in constants."""
    places: dict[int, dict[int, int]] = {}  # channel: {number of the axis: positions}
    where: list[tuple[Key, int]] = []
    for key in axes.constants:
        for axis, ids in enumerate(axes.ids[key]):
            if len(ids) < 2:
                continue
            channels = solution.channel[ids]
            loose, counts = np.unique(channels[~solution.stays[channels]], return_counts=True)
            for channel, count in zip(loose.tolist(), counts.tolist(), strict=True):
                places.setdefault(channel, {})[len(where)] = count
            where.append((key, axis))
    closure = Closure(solution)
    members = [np.array([c], np.int64) for c in places if c not in closure.within]
    seen: set[bytes] = set()
    for seed in closure.seeds:
        found = closure.of(seed)
        if found is not None and found.tobytes() not in seen:
            seen.add(found.tobytes())
            members.append(found)
    grouped: dict[tuple[tuple[int, int], ...], list[Array]] = {}
    for member in members:
        counts_of: Counter[int] = Counter()
        for channel in member.tolist():
            counts_of.update(places.get(channel, {}))
        if counts_of:
            grouped.setdefault(tuple(sorted(counts_of.items())), []).append(member)
    first = {int(member[0]): at for at, member in enumerate(members)}
    out = []
    for counted, own in grouped.items():
        if len(own) < 2:
            continue
        own.sort(key=lambda member: first[int(member[0])])
        axes_of = tuple(where[at] for at, _ in counted)
        width = min(count for _, count in counted)
        out.append(Group(_name(axes_of[0][0]), tuple(own), axes_of, width))
    return tuple(out)


def _name(key: Key) -> str:
    if isinstance(key, Value):
        return key.name
    node, slot = key
    value = node.input(slot)
    return value.name if value is not None else node.name
