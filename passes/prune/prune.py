"""prune: the weights that matter least become zero.

    W   ->   W * mask          mask: all but the `sparsity` share of smallest magnitude

Zeros in a dense tensor save nothing by themselves, neither in the file nor in time (ONNX Runtime
has no sparse kernels), and the report says so. Source: Han et al., 1506.02626.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_compress.ir.graph import Model
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.kernels.magnitude import magnitude_mask
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report, option
from onnx_compress.passes.verify.emitted import emit

_SMALLEST = 64  # elements; below, single weights matter too much


@dataclass(frozen=True)
class Prune(Pass):
    """Set the smallest weights of every layer to zero."""

    name: ClassVar[str] = "prune"
    idempotent: ClassVar[bool] = True
    example: ClassVar[str] = "prune(sparsity=0.5)"
    sparsity: float | None = option(
        None, "share of each layer's weights to set to zero", low=0.0, high=0.99
    )

    @property
    def phase(self) -> Phase:
        """Masks."""
        return Phase.MASK

    @property
    def weight_error(self) -> float | None:
        """At most that of weights of equal size."""
        return None if self.sparsity is None else self.sparsity**0.5

    @property
    def obeyed(self) -> bool:
        """Whether a sparsity was given."""
        return self.sparsity is not None

    def settings(self, context: Context) -> tuple[Pass, ...]:
        """Without a number: several, with real inputs to judge them on."""
        if self.obeyed or not context.calibrated:
            return (self,)
        return tuple(Prune(sparsity=share) for share in (0.7, 0.5, 0.3))

    def run(self, model: Model, context: Context) -> Report:
        """Prune every matrix that multiplies; tables that rows are picked from stay."""
        if self.sparsity is None:
            needed = "which weights may go cannot be told without real inputs: give --calib"
            return Report(skipped=(Entry("prune", needed),), summary="not run: needs --calib")
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
            mask = magnitude_mask(array, self.sparsity)
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
