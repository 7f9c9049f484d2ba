"""Integer product, with the other input quantized at run time.

    MatMul(x, W)   ->   q, sx, zx = DynamicQuantizeLinear(x)
                        Mul(Cast(MatMulInteger(q, codes, zx)), sx * scale)

ONNX Runtime fuses this into one kernel. Gemm adds its C, with alpha and beta taken in.
"""

import numpy as np

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.forms.base import FLOAT, Coded, Reader, Stored
from onnx_compress.ir.weights.forms.gemm import plain_input, with_bias
from onnx_compress.ir.weights.forms.sparse import put_smaller
from onnx_compress.ir.weights.weight import Use


def allows(use: Use, coded: Coded) -> No | None:
    """A float32 matrix product, int8 codes without zero points, scales along the rows or one."""
    if not use.multiplied:
        return No(f"{use.node.op} is no matrix product")
    if coded.element != FLOAT or use.path.casts or coded.codes.dtype != np.int8:
        return No("integer products are for float32")
    if coded.zero_point is not None:
        return No("with zero points")
    if use.path.shape != use.layout.shape or len(use.path.shape) != 2:
        return No("a batch of matrices")
    if not coded.scales_along(use):
        return No("the scales do not lie along the output features")
    return None


def read(use: Use, stored: Stored) -> None:
    """Replace the MatMul or Gemm."""
    node, b = use.node, stored.builder(use)
    quantized, scale_x, zero_x = _quantized(b, plain_input(b, node))
    product = b("MatMulInteger", quantized, _operand(use, stored, b), zero_x, name=node.proto.name)
    scale = stored.channel_scale if stored.channel_scale is not None else np.ones((), np.float32)
    scale = scale * np.float32(node.attribute("alpha", 1.0))
    factor = b("Mul", scale_x, stored.shared(scale.astype(np.float32), "s"))
    out = b("Mul", b("Cast", product, to=FLOAT), factor)
    b.model.replace_uses(node.output, with_bias(b, node, out))
    b.model.remove(node)


def _operand(use: Use, stored: Stored, b: Builder) -> Value:
    """The codes as columns x rows; turned in the file if nothing else reads them."""
    turned = bool(use.node.attribute("transB", 0))
    if stored.weight.sole_use:
        codes: Array = use.path.apply(stored.coded.codes)
        return put_smaller(b, codes.T if turned else codes, "q")
    out = stored.codes()
    for step in use.path.steps:
        if step.perm is not None:
            out = b("Transpose", out, perm=list(step.perm))
        elif step.moves:
            out = b("Reshape", out, b.constant(np.array(step.shape, np.int64), "shape"))
    return b("Transpose", out, perm=[1, 0]) if turned else out


def _quantized(b: Builder, source: Value) -> tuple[Value, Value, Value]:
    """The three outputs of DynamicQuantizeLinear, shared by all products of one input."""
    for node, _ in source.uses:
        if node.op == "DynamicQuantizeLinear" and node.graph is b.graph:
            made = [value for value in node.outputs if value is not None]
            if len(made) == 3:
                return made[0], made[1], made[2]
    first, second, third = b.more_outputs(b("DynamicQuantizeLinear", source), 3)
    return first, second, third


READER = Reader("dynamic", 11, allows, read)
