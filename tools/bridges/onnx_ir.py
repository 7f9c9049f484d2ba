"""onnx-ir, the library that torch.onnx, onnxscript and Olive hold their models in.

passes = onnx_ir.passes.Sequential(as_onnx_ir_pass("quant(bits=8)"), ...)
smaller = passes(onnx_ir.load("model.onnx")).model
"""

from typing import Any

from onnx_compress.bridges import needs
from onnx_compress.compressor import Passes, compress

with needs("onnx-ir"):
    import onnx_ir

    from onnx_compress.ir.graph.onnx_ir import from_onnx_ir, to_onnx_ir

__all__ = ["as_onnx_ir_pass", "from_onnx_ir", "to_onnx_ir"]


def as_onnx_ir_pass(passes: Passes = "quant(bits=8)", **options: Any) -> onnx_ir.passes.PassBase:
    """A functional pass of onnx-ir: the model that goes in stays as it is.

    `passes` and `options` are those of `compress`, `calibration` among them. `modified` is false
    where nothing was gained. What `compress` raises comes through, and is the `__cause__` of the
    PassError of a Sequential. The summaries of all calls, the last one last, are in `summaries`.
    """
    return _Compress(passes, options)


class _Compress(onnx_ir.passes.FunctionalPass):
    """What `as_onnx_ir_pass` gives."""

    def __init__(self, passes: Passes, options: dict[str, Any]) -> None:
        self._passes, self._options = passes, options
        self.summaries: list[Any] = []

    def call(self, model: onnx_ir.Model) -> onnx_ir.passes.PassResult:
        """Compress a copy."""
        result = compress(model, self._passes, **self._options)
        self.summaries.append(result.report)
        return onnx_ir.passes.PassResult(result.model, not result.report.unchanged)

    def __repr__(self) -> str:
        return f"as_onnx_ir_pass({str(self._passes)!r})"
