"""Which convolutions stay float because bytes cost them too much: the few that make most of it.

    error^2 of a model with some units in bytes  ~  sum of error^2 of each alone

Measured at the outputs, before a Softmax, on samples that ranges were not taken from, by halves: a
half that makes little of the error is not looked into. Again with what is left, until that is
little. The first layers of small networks are often such.
"""

from collections.abc import Sequence

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import Model, Node, Value, clone, opset
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.weights.forms import READERS
from onnx_compress.kernels.affine import dequantize, quantize, symmetric_scale
from onnx_compress.passes.logits import give_logits
from onnx_compress.passes.quant.halves import Part, looked_into
from onnx_compress.passes.quant.static.ranges import Step
from onnx_compress.passes.quant.static.units import Unit
from onnx_compress.passes.verify import Reference

_BITS = 8
_SMALL = 1e-4  # error^2 that nobody has to look into
_SHARE = 0.08  # of the error^2, below which a unit is left alone
_ENOUGH = 0.01  # error^2; while more is left, the share is of what is left
_LOOK = 0.02  # of the error^2, below which a half is not looked into
_ROUGH = 0.1  # of the error^2 of a unit
_FINE = 1e-3  # error^2 of a weight that is better fitted than it is rounded here
_WORTH = 3.0  # times its share of the time that its share of the error must be


class Sensitivity:
    """Of the outputs of a model to bytes in places. `taken`: all units that would be of bytes."""

    def __init__(
        self,
        model: Model,
        steps: dict[Value, Step],
        feeds: Sequence[Feed],
        taken: Sequence[Unit] = (),
    ) -> None:
        self.steps = steps
        self.model, self._twins = _raised(model, feeds)
        self._read = {value for unit in taken for value in unit.inputs}
        self._made: set[Value] = set()  # as bytes, by a unit with a range of its own
        for unit in taken:
            if unit.kind not in ("same", "scaled") or not self._made.isdisjoint(unit.inputs):
                self._made.update(unit.outputs)
        original = clone(model)
        give_logits(original)
        self.reference = Reference(open_session(original, 2, simulated=True), feeds)

    def rough(self, unit: Unit) -> bool:
        """Whether rounding its weight makes much of what a unit loses, not activations alone."""
        if unit.weight is None:
            return False
        square = self.square([unit], activations=False)
        return square > _FINE and square > _ROUGH * self.square([unit])

    def square(self, units: Sequence[Unit], activations: bool = True) -> float:
        """error^2, with these units alone in bytes: their weights, and what they give out.

        And what they are given, if in floats; not weights that are of bytes anyway. Where channels
        of an output are very unlike, what they lose on average. `activations`: else weights alone.
        """
        trial = clone(self.model)
        copies = dict(zip(self.model.graph.nodes, trial.graph.nodes, strict=True))
        twins = {node: copies[twin] for node, twin in self._twins.items() if twin in copies}
        for unit in units:
            if unit.weight is not None:
                self._round(trial, unit, twins[unit.node])
            if not activations:
                continue
            node = twins[unit.node]
            for slot, value in zip(unit.reads, unit.inputs, strict=True):
                if value in self.steps and value not in self._made:
                    given = _in_bytes(trial, node.inputs[slot], self.steps[value])
                    trial.set_input(node, slot, given)
            value = unit.outputs[0]
            floats = unit.kind == "product" and value not in self._read
            if value in self.steps and not floats:
                end = twins[unit.tail[-1] if unit.tail else unit.node].output
                _let_all_read(trial, end, _in_bytes(trial, end, self.steps[value]))
        give_logits(trial)
        return self.reference.apart(trial)

    def _round(self, trial: Model, unit: Unit, node: Node) -> None:
        if unit.weight is None or unit.otherwise == "dynamic":
            return
        (use,) = unit.weight.uses
        array = unit.weight.array()
        scale = symmetric_scale(array, unit.weight.channel_axes, _BITS)
        codes = quantize(array, scale, _BITS)
        rounded = use.path.apply(dequantize(codes, scale, None, np.float32))
        trial.set_input(node, use.slot, trial.add_constant(trial.graph, rounded, "rounded"))


def _raised(model: Model, feeds: Sequence[Feed]) -> tuple[Model, dict[Node, Node]]:
    """A copy of an operator set that has QuantizeLinear, and its nodes by those of the model."""
    copy = clone(model)
    twins = dict(zip(model.graph.nodes, copy.graph.nodes, strict=True))
    version = READERS["static"].minimum_opset
    if feeds and copy.opset() < version:
        opset.raise_to(copy, version, Shapes(copy, feeds[0]).types)
    return copy, twins


def _in_bytes(trial: Model, value: Value | None, step: Step) -> Value:
    """What bytes leave of a value."""
    graph = trial.graph
    scale = trial.add_constant(graph, np.asarray(step.scale), "scale")
    zero = trial.add_constant(graph, np.asarray(step.zero), "zero")
    codes = trial.add_node(graph, "QuantizeLinear", [value, scale, zero])
    return trial.add_node(graph, "DequantizeLinear", [codes, scale, zero])


def _let_all_read(trial: Model, value: Value, new: Value) -> None:
    """But what `new` is made of."""
    own = new.producer.inputs[0] if new.producer is not None else None
    for node, slot in list(value.uses):
        if own is None or node is not own.producer:
            trial.set_input(node, slot, new)


def spared(
    sensitivity: Sensitivity, units: Sequence[Unit], gains: Sequence[float]
) -> list[tuple[Unit, float]]:
    """The units that are to stay float, and the share of the error that each makes.

    `gains`: what each saves in bytes, in any unit of time.
    """
    able = [
        (unit, gain)
        for unit, gain in zip(units, gains, strict=True)
        if unit.kind in ("weighted", "product", "own")
    ]
    time = max(sum(max(gain, 0.0) for _, gain in able), 1e-30)
    total = whole = sensitivity.square([unit for unit, _ in able])
    found: list[tuple[Unit, float]] = []
    parts: list[Part[tuple[Unit, float]]] = [(able, total)]
    while _SMALL < total < np.inf:
        least = (_LOOK if total > _ENOUGH else _SHARE) * total
        parts = looked_into(lambda side: sensitivity.square([u for u, _ in side]), parts, least)
        left, kept = total, []
        for part, square in sorted(parts, key=lambda each: -each[1]):
            unit, gain = part[0]
            share = square / (left if left > _ENOUGH else total)
            if len(part) == 1 and share >= max(_SHARE, _WORTH * max(gain, 0.0) / time):
                found.append((unit, square / whole))
                left -= square
            else:
                kept.append((part, square))
        if len(kept) == len(parts):
            break
        parts = kept
        total = sensitivity.square([unit for part, _ in parts for unit, _ in part])
        if total <= _ENOUGH:
            break
    return found
