"""What quant asks for: activations in bytes, plans of the weights of what reads them, biases."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import Model, opset
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import READERS
from onnx_compress.passes.base import Context, Entry
from onnx_compress.passes.quant.plan import Plan
from onnx_compress.passes.quant.static.place import placement
from onnx_compress.passes.quant.static.shift import Original, correct_means

READER = "static"


@dataclass
class Integers:
    """What became of the activations of a model. `plans`: of the weights that are read by them."""

    model: Model
    context: Context
    plans: dict[Weight, Plan] = field(default_factory=dict)
    changes: list[Entry] = field(default_factory=list)
    original: Original | None = None

    def correct(self) -> None:
        """Once all weights are stored: take what has shifted off the biases."""
        if self.original is not None:
            uses = [weight.uses[0] for weight in self.plans]
            correct_means(self.model, self.original, uses, self.context)


def placed(model: Model, weights: Sequence[Weight], context: Context, newest: int) -> Integers:
    """Put into bytes what gains by it. `newest`: operator set that the model may be raised to."""
    made = Integers(model, context)
    version = READERS[READER].minimum_opset
    found = placement(model, weights, context) if newest >= version else None
    if found is None:
        return made
    taken = found.chosen()
    if model.opset() < version:
        made.changes.append(Entry("operator set", f"raised from {model.opset()} to {version}"))
        opset.raise_to(model, version, Shapes(model, context.sample).types)
    made.original = Original.of(model)
    for weight in found.write(taken):
        made.plans[weight] = Plan(8, {weight.uses[0]: READER})
    return made
