"""What the samples tell of each weight: H = E[x xT] of the inputs of its main use, and E[x]."""

from collections.abc import Sequence

from onnx_compress.ir.errors import CalibrationError, UnsupportedError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes.base import Context
from onnx_compress.passes.quant.plan import main_use
from onnx_compress.passes.statistics import Moment, Moments, collect


def moments(model: Model, weights: Sequence[Weight], context: Context) -> dict[Weight, Moments]:
    """Of the weights that multiply something; empty without samples.

    Where a model has bodies that cannot be looked into, of those outside of them alone. Weights
    whose inputs were never seen, in a branch not taken, are left out.
    """
    uses = {w: use for w in weights if (use := main_use(w)) is not None and source(use) is not None}
    if not context.fit or not uses:
        return {}
    try:
        return _collected(model, uses, context)
    except UnsupportedError:
        outside = {w: use for w, use in uses.items() if use.node.graph is model.graph}
        return _collected(model, outside, context) if outside else {}
    except CalibrationError:  # NaN or infinity somewhere: nothing can be told
        return {}


def _collected(model: Model, uses: dict[Weight, Use], context: Context) -> dict[Weight, Moments]:
    requests = {weight: Moment(use) for weight, use in uses.items()}
    found = collect(
        model,
        list(requests.values()),
        context.fit,
        threads=2,
        progress=lambda done, total: context.progress(done, total, "samples"),
    )
    answers = {weight: found[request] for weight, request in requests.items()}
    return {weight: seen for weight, seen in answers.items() if seen.rows > 0}
