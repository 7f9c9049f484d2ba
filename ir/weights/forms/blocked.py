"""The portable spelling of a product with a 4-bit weight, one for each use.

    MatMul(x, W)   ->   MatMul(x, DequantizeLinear(codes, scale, zero, axis=0, block_size=32))

Codes are int4 without zero points, uint4 with them, laid out as columns x rows. ONNX Runtime fuses
it into MatMulNBits; other runtimes take it as it is. Gemm, which it would not fuse, is written as
MatMul and Add.
"""

import ml_dtypes
import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights.forms import nbits
from onnx_compress.ir.weights.forms.base import Reader
from onnx_compress.ir.weights.forms.gemm import plain_input, with_bias
from onnx_compress.ir.weights.forms.packed import Packed, StoredBytes
from onnx_compress.ir.weights.weight import Use


def allows(use: Use, form: Packed) -> No | None:
    """What MatMulNBits takes, of 4 bits, in rows of whole blocks."""
    if form.levels != 16:
        return No("only for 4 bits")
    if form.order.columns % form.block:
        return No("only for rows of whole blocks")
    return nbits.allows(use, form)


def read(use: Use, stored: StoredBytes) -> None:
    """Replace the MatMul or Gemm."""
    node, b, form = use.node, stored.builder(use), stored.form
    middle = form.levels // 2
    signed = not np.ndim(form.zero) and form.zero == middle
    codes = form.codes[0].T.astype(np.int8)
    kind = ml_dtypes.int4 if signed else ml_dtypes.uint4
    scale = form.scale[0].T.astype(np.float32) * np.float32(node.attribute("alpha", 1.0))
    inputs: list[Array] = [(codes - middle if signed else codes).astype(kind), scale]
    if not signed:
        zeros = np.broadcast_to(form.zero, form.scale.shape[1:])
        inputs.append(zeros.T.astype(np.uint8).astype(kind))
    parts = [b.constant(part, name) for part, name in zip(inputs, "qsz", strict=False)]
    weight = b("DequantizeLinear", *parts, axis=0, block_size=form.block)
    out = b("MatMul", plain_input(b, node), weight, name=node.proto.name)
    b.model.replace_uses(node.output, with_bias(b, node, out))
    b.model.remove(node)


READER = Reader("blocked", 21, allows, read)
