"""Which part of a model computes with bytes, from units, speeds and samples; and its writing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.path import is_stored
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.halves import HELD
from onnx_compress.passes.quant.static.choose import chosen, gain
from onnx_compress.passes.quant.static.gemms import as_gemms
from onnx_compress.passes.quant.static.products import product
from onnx_compress.passes.quant.static.ranges import Step, steps
from onnx_compress.passes.quant.static.spare import Sensitivity, spared
from onnx_compress.passes.quant.static.units import Unit, Units, convolution
from onnx_compress.passes.quant.static.write import Writer, needed


@dataclass(frozen=True)
class Placement:
    """Units that may run in integers, and the steps of what they read and give out.

    `gains`: of the units, what each saves, in products of float32.
    `held`: samples that the steps do not come from.
    """

    model: Model
    context: Context
    gains: dict[Unit, float]
    steps: dict[Value, Step]
    shapes: Shapes
    held: Sequence[Feed]

    def chosen(self, barred: Collection[Node] = ()) -> list[Unit]:
        """Those that run in integers when some nodes are to stay float.

        So do the readers of an activation that is to, who would make bytes of it all the same.
        """
        target, model = self.context.target, self.model
        floats = {unit.node for unit in self.gains if not self._known(unit)} | {*barred}
        kept: set[Value] = set()
        for unit in self.gains:
            if not kept.isdisjoint(unit.inputs):
                floats.add(unit.node)
            moved = unit.kind in ("same", "scaled") and unit.node in floats
            if moved or (unit.kind == "own" and unit.node in barred):
                kept.update(unit.outputs)
        return chosen(model, self.gains, self.shapes, target, floats)

    def _known(self, unit: Unit) -> bool:
        values = [*unit.inputs, *unit.outputs]
        return all(v in self.steps or is_stored(self.model, v) for v in values)

    def spared(self, taken: Sequence[Unit]) -> tuple[dict[Node, float], set[Node]]:
        """Nodes that had better stay float, and which share of the error they make.

        And those of them whose weights make much of it, so that eight bits are too few for these.
        """
        if not self.held:
            return {}, set()
        sensitivity = Sensitivity(self.model, self.steps, self.held, taken)
        # a product of bytes that are made at run time is almost as fast
        gains = [0.0 if unit.otherwise == "dynamic" else self.gains[unit] for unit in taken]
        found = spared(sensitivity, taken, gains)
        rough = {unit.node for unit, _ in found if sensitivity.rough(unit)}
        return {unit.node: share for unit, share in found}, rough

    def as_gemms(self, taken: Sequence[Unit]) -> list[Unit]:
        """The same, of floats still, in the way in which they are to be written."""
        return as_gemms(self.model, taken, self.steps)

    def write(self, taken: Sequence[Unit]) -> list[Weight]:
        """Put them into integers; gives the weights that are to be read as bytes now."""
        Writer(self.model, self.steps).write(taken)
        return [unit.weight for unit in taken if unit.weight is not None]


def placement(
    model: Model, weights: Sequence[Weight], context: Context, otherwise: Mapping[Use, str]
) -> Placement | None:
    """What could be; None where nothing could, or where the samples tell nothing.

    `otherwise`: how uses of weights are read if not so.
    """
    target = context.target
    kinds = (
        (convolution if target.convolutions.get("static") else None),
        (product if target.speed.get("static") else None),
    )
    uses = {use.node: w for w in weights for kind in kinds if kind and (use := kind(w)) is not None}
    if not context.fit or not uses:
        return None
    shapes = Shapes(model, context.sample)
    found = Units(model, uses, shapes, target.operators, otherwise).found()
    gains = {unit: gain(unit, shapes, target) for unit in found}
    first = chosen(model, gains, shapes, target, ())
    if not any(unit.weight for unit in first):
        return None
    held = min(len(context.fit) // 4, HELD)
    fit = context.fit[: len(context.fit) - held]
    try:
        seen = steps(model, needed(model, first), fit, context)
    except CalibrationError:
        return None
    for unit in first:  # what only moves numbers, or scales them, is known by what it reads
        if unit.kind in ("same", "scaled") and unit.inputs[0] in seen:
            own = seen[unit.inputs[0]].times(unit.factor)
            seen |= dict.fromkeys(unit.outputs, own)
    return Placement(model, context, gains, seen, shapes, context.fit[len(fit) :])
