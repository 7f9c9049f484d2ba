"""Matrix products of bytes, recomputed.

    MatMulInteger           sum (a - za)(b - zb)
    DynamicQuantizeMatMul   f32(sum) (sx s)          x to bytes as DynamicQuantizeLinear does it
    MatMulIntegerToFloat    f32(sum) (sa s) + bias
    QLinearMatMul, QGemm    clip(rint(f32(sum) f32(f32(sa sb) / sy)) + zy)

Each exactly, and where that may differ as processors without VNNI saturate: they add two products
of an unsigned and a signed byte in 16 bits.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.kernels.integer import combined_scale, matmul_integer
from onnx_compress.kernels.linear import dynamic_quantize, requantize
from onnx_compress.passes.verify.recompute.way import Inputs, Way

SATURATED = "saturates: this processor adds two products in 16 bits"
_LARGEST = (1 << 15) - 1
Finish = Callable[[Array], Array]


def may_saturate(a: Array, b: Array) -> bool:
    """Whether two products of these can leave 16 bits: unsigned and signed bytes, in that order."""
    if a.dtype != np.uint8 or b.dtype != np.int8 or not a.size or not b.size:
        return False
    return 2 * int(a.max()) * int(np.abs(b.astype(np.int32)).max()) > _LARGEST


def _ways(a: Array, za: Any, b: Array, zb: Any, finish: Finish) -> Iterator[Way]:
    zeros = tuple(0 if zero is None else _flat(zero) for zero in (za, zb))
    a, b = (np.ascontiguousarray(part) for part in (a, b))
    yield Way((finish(matmul_integer(a, b, *zeros)),))
    if may_saturate(a, b):
        total = matmul_integer(a, b, *zeros, saturate=True)
        yield Way((finish(total),), note=SATURATED, warns=True)


def _flat(zero: Any) -> Any:
    """One zero point, or one for each row or column."""
    array = np.asarray(zero)
    return array.reshape(()) if array.size == 1 else array


def matmul_integer_node(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A [..., K], B [K, N] or batches; zero points one, or one for each row of A, column of B."""
    a, b, za, zb = (*inputs, None, None)[:4]
    yield from _ways(a, za, b, zb, lambda total: total)


def matmul_integer_to_float(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A, B, scale of A, of B, zero points, bias."""
    a, b, sa, sb, za, zb, bias = (*inputs, *(None,) * 7)[:7]
    factor = (np.asarray(sa) * np.asarray(sb)).astype(np.float32)
    yield from _ways(a, za, b, zb, _scaled(factor, bias))


def dynamic_matmul(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A in float, B, scale of B, zero point of B, bias."""
    x, b, sb, zb, bias = (*inputs, *(None,) * 5)[:5]
    a, sa, za = dynamic_quantize(x)
    yield from _ways(a, za, b, zb, _scaled((sa * sb).astype(np.float32), bias))


def _scaled(factor: Array, bias: Array | None) -> Finish:
    def finish(total: Array) -> Array:
        out = total.astype(np.float32) * factor
        return np.asarray(out if bias is None else out + bias)

    return finish


def qlinear_matmul(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A, sa, za, B, sb, zb, sy, zy."""
    a, sa, za, b, sb, zb, sy, zy = inputs[:8]
    yield from _ways(a, za, b, zb, requantizing(combined_scale(sa, sb, sy), zy))


def requantizing(factor: Array, zero: Array, axis: int = -1) -> Finish:
    """Sums to bytes of the type of the zero point; one factor, or one along an axis."""
    start = int(np.asarray(zero).reshape(()))
    kind = np.asarray(zero).dtype
    each = factor.reshape(-1) if factor.size > 1 else factor.reshape(())
    return lambda total: requantize(total, each, start, axis=axis, dtype=kind)


def qgemm(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A, sa, za, B, sb, zb, C, sy, zy; without sy the result is float."""
    a, sa, za, b, sb, zb, c, sy, zy = (*inputs, *(None,) * 9)[:9]
    a = a.T if node.attribute("transA", 0) else a
    b = b.T if node.attribute("transB", 0) else b
    scale = (np.float32(node.attribute("alpha", 1.0)) * sa * sb).astype(np.float32)

    def finish(total: Array) -> Array:
        whole = total if c is None else total + c
        if sy is None:
            return np.asarray(whole.astype(np.float32) * scale)
        return requantizing((scale / sy).astype(np.float32), zy)(whole)

    yield from _ways(a, za, b, zb, finish)
