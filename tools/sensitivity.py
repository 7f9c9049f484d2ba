"""Which layer is it? The error of the outputs when one weight alone is compressed.

Every weight that the run changed is compressed alone, with the settings that the run took, on top
of its exact passes, and judged on the same samples as the run.
"""

import glob
from dataclasses import replace

from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes import Context, Event, Outcome, Pass
from onnx_compress.passes.base import ignore
from onnx_compress.passes.verify import Quality, Reference
from onnx_compress.result import Layer

_UNJUDGED = Quality(())


def sensitivity(
    original: Model, outcome: Outcome, context: Context, reference: Reference
) -> tuple[Layer, ...]:
    """One Layer for each weight that was changed, the worst first."""
    quiet = replace(context, emit=ignore)
    taken = [s.setting for s in outcome.stages if s.setting and not s.failure and s.report.modified]
    exact = [item for item in taken if item.exact]
    lossy = [item for item in taken if not item.exact]
    base = clone(original)
    for item in exact:
        item.run(base, quiet)
    changed = {e.subject for s in outcome.stages for e in s.report.changes}
    names = [weight.name for weight in find_weights(base)]
    asked = [name for name in names if name in changed]
    layers = []
    for done, name in enumerate(asked):
        context.emit(Event("progress", "layers", done, len(asked)))
        others = (*context.exclude, *(glob.escape(other) for other in names if other != name))
        quality = _alone(base, lossy, replace(quiet, exclude=others), reference)
        layers.append(Layer(name, reference.error(quality), quality.sqnr_db))
    return tuple(sorted(layers, key=lambda layer: (-layer.error, layer.weight)))


def _alone(base: Model, lossy: list[Pass], context: Context, reference: Reference) -> Quality:
    trial = clone(base)
    modified = [item.run(trial, context).modified for item in lossy]
    return reference.judge(trial) if any(modified) else _UNJUDGED
