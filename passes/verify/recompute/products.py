"""Matrix products of bytes, recomputed.

MatMulInteger           sum (a - za)(b - zb)
DynamicQuantizeMatMul   f32(sum) (sx s)          x to bytes as DynamicQuantizeLinear does it
MatMulIntegerToFloat    f32(sum) (sa s) + bias
QLinearMatMul, QGemm    clip(rint(f32(sum) f32(f32(sa sb) / sy)) + zy)
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.passes.verify.recompute import integers
from onnx_compress.passes.verify.recompute.quantize import dynamic, requantized
from onnx_compress.passes.verify.recompute.way import Inputs, Way

SATURATED = "saturates: this processor adds two products in 16 bits"
Finish = Callable[[Array], Array]


def sums(a: Array, za: Any, b: Array, zb: Any) -> Iterator[tuple[Array, str]]:
    """The sums, exact; then saturated where they may be, with a note."""
    zero_b = None if zb is None else np.asarray(zb)
    zero_a = None if za is None else np.asarray(za)
    left = zero_a.reshape(-1, 1) if zero_a is not None and zero_a.size > 1 else zero_a
    if left is not None and left.size == 1:
        left = left.reshape(())
    yield integers.product(integers.shifted(a, left), integers.shifted(b, zero_b)), ""
    alone = b.ndim == 2 and (left is None or left.ndim == 0)
    if alone and integers.may_saturate(a, b):
        flat = integers.saturated(a.reshape(-1, a.shape[-1]), left, b, zero_b)
        yield flat.reshape(*a.shape[:-1], b.shape[1]), SATURATED


def _ways(a: Array, za: Any, b: Array, zb: Any, finish: Finish, steps: int = 0) -> Iterator[Way]:
    for total, note in sums(a, za, b, zb):
        yield Way((finish(total),), steps=steps, note=note, warns=bool(note))


def matmul_integer(node: Node, inputs: Inputs) -> Iterator[Way]:
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
    a, sa, za = dynamic(x)
    yield from _ways(a, za, b, zb, _scaled((sa * sb).astype(np.float32), bias))


def _scaled(factor: Array, bias: Array | None) -> Finish:
    def finish(total: Array) -> Array:
        out = total.astype(np.float32) * factor
        return np.asarray(out if bias is None else out + bias)

    return finish


def qlinear_matmul(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A, sa, za, B, sb, zb, sy, zy."""
    a, sa, za, b, sb, zb, sy, zy = inputs[:8]
    zero = zb.reshape(-1) if zb.size > 1 else zb.reshape(())
    factor = ((sa * sb).astype(np.float32) / sy).astype(np.float32)
    finish = _requantizing(factor, zy)
    yield from _ways(a, za, b, zero, finish)


def _requantizing(factor: Array, zero: Array) -> Finish:
    return lambda total: requantized(total, factor, zero)


def qgemm(node: Node, inputs: Inputs) -> Iterator[Way]:
    """A, sa, za, B, sb, zb, C, sy, zy; without sy the result is float."""
    a, sa, za, b, sb, zb, c, sy, zy = (*inputs, *(None,) * 9)[:9]
    a = a.T if node.attribute("transA", 0) else a
    b = b.T if node.attribute("transB", 0) else b
    scale = (np.float32(node.attribute("alpha", 1.0)) * sa * sb).astype(np.float32)
    zero = zb.reshape(-1) if zb is not None and zb.size > 1 else zb

    def finish(total: Array) -> Array:
        whole = total if c is None else total + c
        if sy is None:
            return np.asarray(whole.astype(np.float32) * scale)
        return requantized(whole, (scale / sy).astype(np.float32), zy)

    yield from _ways(a, za, b, zero, finish)
