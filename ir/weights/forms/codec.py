"""Decoded once for all readers, by operators that ONNX Runtime folds when it loads the model.

    W   ->   Mul(Sub(Cast(codes), zero_point), scale)

Small in the file, full speed, full size in memory. DequantizeLinear would not be folded.
"""

from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights.forms.base import Coded, Reader, Stored
from onnx_compress.ir.weights.weight import Use


def allows(use: Use, coded: Coded) -> No | None:
    """Anything."""
    return None


def decode_all(stored: Stored) -> None:
    """Let everything that still reads the weight read the decoded one."""
    b, coded = stored.builder(), stored.coded
    element, dtype = coded.work
    out = b("Cast", stored.codes(), to=element)
    if coded.zero_point is not None:
        out = b("Sub", out, b.constant(coded.zero_point.astype(dtype), "z"))
    if coded.scale is not None:
        out = b("Mul", out, b.constant(coded.scale.astype(dtype), "s"))
    if element != coded.element:
        out = b("Cast", out, to=coded.element)
    b.model.replace_uses(stored.weight.value, out)
    remove_unused(b.model, [stored.weight.value])


def read(use: Use, stored: Stored) -> None:
    """Nothing to do for one use: see `decode_all`."""


READER = Reader("codec", 7, allows, read)
