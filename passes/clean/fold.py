"""fold: exact clean-up.

    inputs that are weights ->  constants           where most of what is stored is an input
    constant expressions    ->  their numbers, where that takes no more room
    Conv, BatchNormalization  ->  Conv          before or after; also ConvTranspose, Gemm, MatMul
    Conv after Pad with zeros     ->  Conv
    Identity, Dropout, Cast to the same type, Transpose and Reshape to the same  ->  nothing
    equal constants         ->  one
    what nothing reads      ->  nothing

The rules run in turn until none finds anything.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from onnx_compress.ir.graph import Model
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report
from onnx_compress.passes.clean.batchnorm import fold_batchnorms
from onnx_compress.passes.clean.constants import fold_constants
from onnx_compress.passes.clean.dead import remove_dead
from onnx_compress.passes.clean.duplicates import share_constants
from onnx_compress.passes.clean.identities import remove_identities
from onnx_compress.passes.clean.inputs import close_inputs
from onnx_compress.passes.clean.pads import fold_pads

Rule = Callable[[Model], Report]

RULES: dict[str, Rule] = {
    "inputs": close_inputs,
    "dead": remove_dead,
    "constants": fold_constants,
    "identities": remove_identities,
    "batchnorm": fold_batchnorms,
    "pads": fold_pads,
    "duplicates": share_constants,
}
_ROUNDS = 10


@dataclass(frozen=True)
class Fold(Pass):
    """Exact clean-up: nothing changes but rounding."""

    name: ClassVar[str] = "fold"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    @property
    def phase(self) -> Phase:
        """Always first."""
        return Phase.CLEAN

    def run(self, model: Model, context: Context) -> Report:
        """Apply all rules until none finds anything."""
        counts: Counter[str] = Counter()
        changes: list[Entry] = []
        skipped: dict[str, Entry] = {}
        apart = frozenset(weight.value for weight in context.excluded(model))
        for _ in range(_ROUNDS):
            before = model.edits
            for name, rule in RULES.items():
                report = share_constants(model, apart) if name == "duplicates" else rule(model)
                counts[name] += len(report.changes)
                changes += report.changes
                skipped |= {entry.subject: entry for entry in report.skipped}
            if model.edits == before:
                break
        gone = {entry.subject for entry in changes}
        left = tuple(entry for name, entry in skipped.items() if name not in gone)
        summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return Report(tuple(changes), left, summary or "nothing to clean up")
