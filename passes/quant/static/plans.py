"""What quant asks: put the activations into bytes, and plan the weights of what reads them."""

from collections.abc import Sequence

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.graph import Model, opset
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import READERS
from onnx_compress.passes.base import Context, Entry
from onnx_compress.passes.quant.plan import Plan
from onnx_compress.passes.quant.static.place import placement

READER = "static"


def placed(
    model: Model, weights: Sequence[Weight], context: Context, newest: int, changes: list[Entry]
) -> dict[Weight, Plan]:
    """Plans of the weights whose convolutions are of integers now; what was done to `changes`."""
    version = READERS[READER].minimum_opset
    if newest < version:
        return {}
    found = placement(model, weights, context)
    if found is None:
        return {}
    taken = found.chosen()
    if model.opset() < version:
        changes.append(Entry("operator set", f"raised from {model.opset()} to {version}"))
        opset.raise_to(model, version, Shapes(model, context.sample).types)
    written = found.write(taken)
    return {weight: Plan(8, {weight.uses[0]: READER}) for weight in written}
