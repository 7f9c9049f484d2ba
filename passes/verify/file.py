"""File: does it load, with the interface that it had, and what does the runtime make of it?

The operators that are really run are those of the optimized graph: a DequantizeLinear that survives
there runs at every inference, one that does not was folded or fused.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import Model, files, invariants
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.ir.runtime.optimized import Optimized
from onnx_compress.passes.verify.finding import Finding, Severity

LEVEL = "file"


@dataclass(frozen=True)
class FileCheck:
    """Figures in pairs are those of the original and of the compressed model.

    `written`: nodes in the file by operator; `ran`: of the optimized graph, domains left out.
    `survived`: nodes that decode a weight at every inference.
    """

    bytes: tuple[int, int]
    opset: tuple[int, int]
    written: Mapping[str, int]
    ran: Mapping[str, int]
    survived: int
    findings: tuple[Finding, ...]

    @property
    def fused(self) -> dict[str, int]:
        """Operators that the runtime made, and that the file has not."""
        return {op: count for op, count in self.ran.items() if op not in self.written}


def checked(original: Model, compressed: Model, ran: Optimized | None) -> FileCheck:
    """Look at a compressed model as a file. `ran`: None where it is run in pieces."""
    findings = []
    try:
        invariants.check(compressed)
    except CompressError as error:
        findings.append(Finding(LEVEL, Severity.WRONG, error.where, error.message))
    findings += _interface(original, compressed)
    written = Counter(node.proto.op_type for node in compressed.nodes())
    survived = 0
    if ran is not None:
        survived = _decoding(ran.model)
        if survived:
            text = f"{survived} weights are decoded at every inference, which takes time"
            findings.append(Finding(LEVEL, Severity.NOTE, "DequantizeLinear", text))
    counts = ran.counts if ran is not None else Counter()
    counts.pop("Constant", None)
    sizes = files.file_size(original), files.file_size(compressed)
    opsets = original.opset(), compressed.opset()
    return FileCheck(sizes, opsets, written, counts, survived, tuple(findings))


def _interface(original: Model, compressed: Model) -> list[Finding]:
    before, after = dict(original.interface()), dict(compressed.interface())
    found = []
    for name in {**before, **after}:
        if name not in after:
            text = "the compressed model has no such input or output"
        elif name not in before:
            text = "the original has no such input or output"
        elif before[name] != after[name]:
            text = "its type or shape is not that of the original"
        else:
            continue
        found.append(Finding(LEVEL, Severity.WRONG, name, text))
    return found


def _decoding(model: Model) -> int:
    """DequantizeLinear nodes of stored codes that are left in the optimized graph."""
    fixed = fixed_nodes(model, model.graphs())
    return sum(node.proto.op_type == "DequantizeLinear" for node in fixed)
