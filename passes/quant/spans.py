"""Spans: values that one positive factor a channel may run through, from rows into columns.

    Conv -> Relu -> MaxPool -> Conv, Conv         rows / s   ->   columns * s, columns * s
    Conv, Conv -> Add -> Relu -> Conv, Add ...    all that is added up is divided alike

All between is homogeneous: f(a x) = a f(x) for a > 0. Clip with bounds, Sigmoid and their like are
not, so what they read or give stays. Depthwise convolutions end a span and begin another. Source:
Nagel et al., 1906.04721.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.path import is_stored, stored_floats

_ANYWHERE = ("Relu", "LeakyRelu", "Identity")
_BY_CHANNEL = (
    *_ANYWHERE,
    "PRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
)
_MOVED = ("Reshape", "Flatten", "Transpose", "Squeeze")
_PRODUCTS = ("MatMul", "Gemm")
_LARGEST = 1 << 24  # numbers of a value whose channels are followed one by one
_Todo = list[tuple[Value, Array | None]]


@dataclass(frozen=True, eq=False)
class Reading:
    """A weight whose columns are multiplied: `channels` [groups, columns], of which one each is."""

    weight: Weight
    value: Value
    channels: Array

    @property
    def use(self) -> Use:
        """Of the weight."""
        return self.weight.uses[0]


@dataclass(eq=False)
class Span:
    """`values`: each with the channel of every number where its axis 1 does not tell."""

    size: int
    makers: list[Weight] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    values: dict[Value, Array | None] = field(default_factory=dict)

    def seen_by(self, value: Value) -> list[Reading]:
        """The readings that what a value loses comes to."""
        found, todo, done = [], [value], set()
        while todo:
            at = todo.pop()
            if at in done:
                continue
            done.add(at)
            found += [reading for reading in self.readings if reading.value is at]
            todo += [v for node in at.consumers for v in node.outputs if v in self.values]
        return found


def find_spans(model: Model, weights: Collection[Weight], shapes: Shapes) -> list[Span]:
    """All that begin at convolutions, of float32 weights that one node of the main graph reads."""
    finder, found = _Finder(model, weights, shapes), []
    done: set[Value] = set()
    for node in model.graph.sorted():
        if node.op == "Conv" and node in finder.weights and node.output not in done:
            span = finder.span(node)
            done.update(span.values)
            if finder.refused is None:
                found.append(span)
    return found


class _Finder:
    def __init__(self, model: Model, weights: Collection[Weight], shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        able = [w for w in weights if w.sole_use and w.dtype == "FLOAT"]
        self.weights = {
            w.uses[0].node: w
            for w in able
            if w.uses[0].node.graph is model.graph and not w.uses[0].path.casts
        }
        self.refused: No | None = None

    def span(self, node: Node) -> Span:
        """Through this convolution; `refused` where something stands in the way."""
        layout = self.weights[node].uses[0].layout
        span = Span(layout.groups * layout.rows)
        todo: _Todo = [(node.output, None)]
        self.refused = None
        while todo and self.refused is None:
            value, channels = todo.pop()
            if value in span.values:
                continue
            span.values[value] = channels
            if value.exits:
                self.refused = No("it is given out")
            else:
                steps = [self._made(span, value, todo)]
                uses = [] if steps[0] is not None else list(value.uses)
                steps += [self._read(span, value, each, slot, todo) for each, slot in uses]
                self.refused = next((step for step in steps if step is not None), None)
        return span

    def _made(self, span: Span, value: Value, todo: _Todo) -> No | None:
        node = value.producer
        if node is None or node.graph is not self.model.graph:
            return No("nothing makes it here")
        if node.op == "Conv":
            weight, bias = self.weights.get(node), node.input(2)
            if weight is None or (bias is not None and not is_stored(self.model, bias)):
                return No("its weight or bias is not its own")
            span.makers.append(weight)
        elif node.op == "Add":
            alike = self.shapes.shape(value)
            if any(v is None or self.shapes.shape(v) != alike for v in node.inputs):
                return No("it is added up of unlike shapes")
            todo += [(v, None) for v in node.inputs if v is not None]
        elif node.op in _BY_CHANNEL and node.input(0) is not None:
            todo += [(v, None) for v in node.inputs[:1] if v is not None]
        elif node.op not in (*_MOVED, "Mul") or span.values.keys().isdisjoint(node.inputs):
            return No(f"{node.op} makes it")
        return None

    def _read(self, span: Span, value: Value, node: Node, slot: int, todo: _Todo) -> No | None:
        channels = span.values[value]
        if node.graph is not self.model.graph:
            return No("a branch reads it")
        plain = slot == 0 and [v is not None for v in node.outputs] == [True]
        if plain and node in self.weights and node.op in ("Conv", *_PRODUCTS):
            return self._weighted(span, value, node)
        if node.op == "Add" and channels is None:
            todo.append((node.output, None))
        elif plain and node.op in (_BY_CHANNEL if channels is None else _ANYWHERE):
            if node.op == "PRelu" and not is_stored(self.model, node.input(1)):
                return No("its slope is computed")
            todo.append((node.output, channels))
        elif node.op == "Mul" and self._constant(node, slot):
            todo.append((node.output, channels))
        elif plain and node.op in _MOVED:
            known, shape = self._channels(span, value), self.shapes.shape(node.output)
            if known is None or shape is None or prod(shape) != known.size:
                return No("its shape is not known")
            order = node.attribute("perm", tuple(range(known.ndim))[::-1])
            moved = known.transpose(order) if node.op == "Transpose" else known.reshape(shape)
            todo.append((node.output, moved))
        else:
            return No(f"{node.op} reads it")
        return None

    def _constant(self, node: Node, slot: int) -> bool:
        """Whether the other factor of a Mul is stored, and spreads nothing."""
        shape = self.shapes.shape(node.input(slot))
        same = shape is not None and shape == self.shapes.shape(node.output)
        return same and is_stored(self.model, node.input(1 - slot))

    def _weighted(self, span: Span, value: Value, node: Node) -> No | None:
        weight, known = self.weights[node], span.values[value]
        (use,) = weight.uses
        layout = use.layout
        whole = layout.groups, layout.columns
        if use.slot != 1 or node.attribute("transA", 0):
            return No("it is multiplied from the left")
        if node.op == "Conv":
            if known is not None:
                return No("its channels were moved")
            window = layout.groups * layout.columns // span.size
            channels = np.repeat(np.arange(span.size), window)
        else:
            known = self._channels(span, value)
            if known is None or known.shape[-1:] != (layout.columns,) or layout.groups > 1:
                return No("its channels are not known")
            rows = known.reshape(-1, layout.columns)
            counts = np.bincount(rows[0], minlength=span.size)
            if (rows != rows[:1]).any() or (counts != counts[0]).any():
                return No("its channels are no columns")
            channels = rows[0]
        span.readings.append(Reading(weight, value, channels.reshape(whole)))
        return None

    def _channels(self, span: Span, value: Value) -> Array | None:
        """Of each number of a value."""
        known, shape = span.values[value], self.shapes.shape(value)
        if known is not None:
            return known
        if shape is None or shape[1:2] != (span.size,) or prod(shape) > _LARGEST:
            return None
        return np.broadcast_to(np.arange(span.size).reshape(-1, *[1] * (len(shape) - 2)), shape)


def bias_of(model: Model, weight: Weight) -> tuple[Node, int, Value] | None:
    """The bias of a convolution, with its node and slot."""
    node = weight.uses[0].node
    value = node.input(2)
    known = stored_floats(model, value)
    return (node, 2, value) if value is not None and known is not None else None
