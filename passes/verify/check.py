"""What every pass must leave true: the graph is sound, loads, and has the interface it had."""

from onnx_compress.ir.errors import CompressError, VerificationError
from onnx_compress.ir.graph import Model, invariants
from onnx_compress.ir.runtime import Session
from onnx_compress.passes.verify.quality import Quality
from onnx_compress.passes.verify.reference import Reference

EXACT_DB = 70.0  # float sums in another order; a wrong graph is far below


def check(model: Model, interface: list[tuple[str, bytes]], reference: Reference) -> Quality:
    """Judge a model after a pass. Raises VerificationError with what is broken."""
    try:
        invariants.check(model)
        if model.interface() != interface:
            raise VerificationError("inputs or outputs changed")
        return reference.judge(Session(model))
    except VerificationError:
        raise
    except CompressError as error:
        raise VerificationError(str(error)) from error
