"""Products with packed weights, by the kernel of ONNX Runtime that unpacks as it multiplies.

    MatMul(x, W)   ->   com.microsoft.MatMulNBits(x, bytes, scale, zero)

Of 2 and 4 bits, in blocks of a power of two. Inputs become bytes block by block (accuracy level 4),
the only way in which the kernel is fast. Gemm adds its C, with alpha and beta taken in.
"""

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights.forms.base import FLOAT, Reader
from onnx_compress.ir.weights.forms.gemm import plain_input, with_bias
from onnx_compress.ir.weights.forms.packed import Packed, StoredBytes
from onnx_compress.ir.weights.order import order_of
from onnx_compress.ir.weights.weight import Use

_SMALLEST = 16  # block


def allows(use: Use, form: Packed) -> No | None:
    """A float32 matrix product whose rows are those of the form."""
    if not use.multiplied:
        return No(f"{use.node.op} is no matrix product")
    if form.element != FLOAT or use.path.casts:
        return No("only for float32")
    if form.levels not in (4, 16) or len(form.codes) > 1:
        return No("only for 2 and 4 bits")
    if form.block < _SMALLEST or form.block & (form.block - 1):
        return No("only for blocks of a power of two, from 16 on")
    if len(use.path.shape) != 2:
        return No("a batch of matrices")
    if not np.ndim(form.zero) and float(form.zero) != int(form.zero):
        return No("zero is between two codes")
    fits = order_of(form.order.stored, use) == form.order
    return None if fits else No("its rows are not those that share scales")


def read(use: Use, stored: StoredBytes) -> None:
    """Replace the MatMul or Gemm."""
    node, b, form = use.node, stored.builder(use), stored.form
    alpha = np.float32(node.attribute("alpha", 1.0))
    blocks = form.blocks
    rows, columns = form.order.rows, form.order.columns
    if all(form.readers.get(other) == READER.name for other in stored.weight.uses):
        codes = stored.shared(form.packed.reshape(rows, blocks, -1), "q")
    else:
        shape = b.constant(np.array([rows, blocks, -1], np.int64), "shape")
        codes = b("Reshape", stored.codes(), shape)
    inputs = [codes, stored.shared(form.scale[0].astype(np.float32) * alpha, "s")]
    if np.ndim(form.zero) or form.zero != form.levels // 2:
        inputs.append(stored.shared(_zeros(form), "z"))
    out = b(
        "MatMulNBits",
        plain_input(b, node),
        *inputs,
        domain="com.microsoft",
        name=node.proto.name,
        K=columns,
        N=rows,
        bits=int(form.packing.bits),
        block_size=form.block,
        accuracy_level=4,
    )
    b.model.replace_uses(node.output, with_bias(b, node, out))
    b.model.remove(node)
    if not b.model.opset("com.microsoft"):
        b.model.set_opset("com.microsoft", 1)


def _zeros(form: Packed) -> Array:
    """Zeros of a row packed like its codes, [rows, bytes]."""
    rows, blocks = form.order.rows, form.blocks
    spare = -blocks % form.packing.digits
    zeros = np.broadcast_to(form.zero, (rows, blocks)).astype(np.uint8)
    return form.packing.pack(np.pad(zeros, ((0, 0), (0, spare)))).reshape(rows, -1)


READER = Reader("nbits", 10, allows, read)
