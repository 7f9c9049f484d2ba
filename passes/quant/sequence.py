"""The numbers of all weights, from one look at the data or layer by layer.

at once       H of the original model for every weight
sequential    H, and what the layer should give, of the model whose earlier layers are changed
"""

from collections.abc import Iterator, Mapping

from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.data import moments
from onnx_compress.passes.quant.plan import Plan
from onnx_compress.passes.quant.solve import Solved, solve


def solve_all(
    model: Model, plans: Mapping[Weight, Plan], context: Context, sequential: bool
) -> Iterator[tuple[Weight, Solved | No]]:
    """Weight by weight, so that few arrays are held at a time."""
    fitted = [weight for weight, plan in plans.items() if plan.bits < 16]
    seen = moments(model, fitted, context)
    for done, (weight, plan) in enumerate(plans.items()):
        context.progress(done, len(plans), "weights")
        yield weight, solve(weight, plan, seen.pop(weight, None), context.target.saturates)
