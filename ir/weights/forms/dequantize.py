"""The portable spelling of an integer weight, one for each use.

    MatMul(x, W)   ->   MatMul(x, DequantizeLinear(codes, scale, axis=1))

ONNX Runtime fuses it into an 8-bit product where codes are laid out as columns x rows, signed,
and one consumer reads them: so that is what is written. Other runtimes take it as it is.
"""

import numpy as np

from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights.forms.base import Coded, Reader, Stored
from onnx_compress.ir.weights.weight import Use

_FLOAT = 1


def allows(use: Use, coded: Coded) -> No | None:
    """A matrix product whose weight nothing else reads, int8, scales along the rows or one."""
    if not use.multiplied:
        return No(f"{use.node.op} is no matrix product")
    if coded.codes.dtype != np.int8 or coded.scale is None or coded.zero_point is not None:
        return No("only for int8 codes with scales and no zero points")
    if coded.element != _FLOAT or use.path.casts:
        return No("only for float32")
    if len(use.path.shape) != 2:
        return No("a batch of matrices")
    if not coded.scales_along(use):
        return No("the scales do not lie along the output features")
    return None


def read(use: Use, stored: Stored) -> None:
    """Let the node read the decoded operand."""
    node, b, coded = use.node, stored.builder(use), stored.coded
    codes = use.path.apply(coded.codes)
    if node.attribute("transB", 0):
        codes = codes.T
        b.model.set_attribute(node, "transB", None)
    scale = stored.channel_scale
    if scale is None:
        raise ValueError("a reader was used that does not allow this")
    axis = 1 if scale.ndim else None
    out = b("DequantizeLinear", b.constant(codes, "q"), b.constant(scale, "s"), axis=axis)
    b.model.set_input(node, use.slot, out)


READER = Reader("dequantize", 13, 32, allows, read)
