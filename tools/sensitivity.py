"""Which layer is it? The error of the outputs when one weight alone is compressed.

Every weight that the run changed is compressed alone, with the settings that the run took, on top
of its exact passes, and judged on the same samples as the run.
"""

from dataclasses import replace

from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes import Context, Event, Outcome
from onnx_compress.passes.base import ignore
from onnx_compress.passes.verify import Reference
from onnx_compress.result import Layer


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
    asked = [at for at, weight in enumerate(find_weights(base)) if weight.name in changed]
    layers = []
    for done, at in enumerate(asked):
        context.emit(Event("progress", "layers", done, len(asked)))
        trial = clone(base)
        weight = find_weights(trial).weights[at]
        alone = replace(quiet, only=weight.value)
        modified = [item.run(trial, alone).modified for item in lossy]
        if any(modified):
            quality = reference.judge(trial)
            layers.append(Layer(weight.name, reference.error(quality), quality.sqnr_db))
    return tuple(sorted(layers, key=lambda layer: (-layer.error, layer.weight)))
