"""The smallest weights of every layer become zero.

    W   ->   W * mask          mask: all but the `sparsity` share of smallest magnitude

Source: Han et al., 1506.02626.
"""

import numpy as np

from onnx_compress.ir.graph import Model
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.kernels.magnitude import magnitude_mask
from onnx_compress.passes.base import Context, Entry, Report
from onnx_compress.passes.verify.emitted import emit

_SMALLEST = 64  # elements; below, single weights matter too much


def prune_weights(model: Model, context: Context, sparsity: float) -> Report:
    """Prune every matrix that multiplies; tables that rows are picked from stay."""
    found = context.weights(model)
    skipped = [Entry(item.name, item.reason) for item in found.skipped]
    changes: list[Entry] = []
    zeros = total = 0
    for done, weight in enumerate(found):
        context.progress(done, len(found.weights), "weights")
        reason = _unfit(weight)
        if reason:
            skipped.append(Entry(weight.name, reason))
            continue
        array = weight.array()
        mask = magnitude_mask(array, sparsity)
        pruned = np.where(mask, array, array.dtype.type(0))
        zeros += int((pruned == 0).sum())
        total += array.size
        if not np.array_equal(pruned, array):
            emit(Dense(pruned), weight)
            share = 1 - float(mask.mean())
            changes.append(Entry(weight.name, f"{share:.0%} set to zero"))
    summary = f"{zeros / max(total, 1):.0%} of {total:,} weights are zero"
    note = "zeros are stored densely: they save neither bytes nor time in ONNX Runtime"
    return Report(tuple(changes), tuple(skipped), summary, (note,) if changes else ())


def _unfit(weight: Weight) -> str:
    if any(use.gathered for use in weight.uses):
        return "rows are picked from it: zeros there are lost words, not lost connections"
    if weight.size < _SMALLEST:
        return f"only {weight.size} weights"
    return ""
