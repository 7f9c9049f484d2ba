"""What every pass must leave true: the graph is sound, loads, and has the interface it had."""

from onnx_compress.ir.errors import (
    CalibrationError,
    CancelledError,
    CompressError,
    OutputError,
    VerificationError,
)
from onnx_compress.ir.graph import Model, invariants
from onnx_compress.ir.graph.elements import element_type, type_name
from onnx_compress.ir.graph.inference import declared
from onnx_compress.passes.verify.quality import Quality
from onnx_compress.passes.verify.reference import Reference

_EXACT_DB = 70.0  # float sums in another order; a wrong graph is far below
_EXACT_HALF_DB = 40.0  # the same with float16 or bfloat16
_HALVES = ("FLOAT16", "BFLOAT16")


def exact_db(model: Model) -> float:
    """What outputs after an exact pass must reach, by the coarsest float in the model."""
    kinds = {
        type_name(element_type(value.tensor))
        for graph in model.graphs()
        for value in graph.initializers
        if value.tensor is not None
    }
    kinds |= {
        type_name(known.element)
        for value in (*model.inputs(), *model.outputs())
        if (known := declared(value.info)) is not None
    }
    return _EXACT_HALF_DB if kinds & set(_HALVES) else _EXACT_DB


def check(
    model: Model, interface: list[tuple[str, bytes]], reference: Reference, score: bool = False
) -> Quality:
    """Judge a model after a pass. Raises VerificationError with what is broken."""
    try:
        invariants.check(model)
        if model.interface() != interface:
            raise VerificationError("inputs or outputs changed")
        return reference.judge(model, score)
    except (VerificationError, OutputError, CancelledError, CalibrationError):
        raise
    except CompressError as error:
        raise VerificationError(str(error)) from error
