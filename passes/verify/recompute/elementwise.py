"""Operators that take bytes apart, compute in float and put them together again, recomputed.

    QLinearAdd(a, b)    quantize(dequantize(a) + dequantize(b))

Kernels of the runtime round on other ways, by tables or in integers, so one step is allowed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.passes.verify.recompute.way import Inputs, Recompute, Way


def _float(codes: Array, scale: Array, zero: Any) -> Array:
    shift = 0 if zero is None else zero.astype(np.int32)
    return np.asarray((codes.astype(np.int32) - shift).astype(np.float32) * scale)


def _bytes(x: Array, scale: Array, zero: Any, dtype: Any) -> Array:
    kind = np.dtype(dtype)
    limits = np.iinfo(kind)
    start = np.float32(0 if zero is None else zero)
    return np.asarray(np.clip(np.rint(x / scale) + start, limits.min, limits.max).astype(kind))


def _of_two(function: Callable[[Any, Any], Any]) -> Recompute:
    """a, sa, za, b, sb, zb, sy, zy."""

    def row(node: Node, inputs: Inputs) -> Iterator[Way]:
        a, sa, za, b, sb, zb, sy, zy = (*inputs, None)[:8]
        out = function(_float(a, sa, za), _float(b, sb, zb))
        yield Way((_bytes(out, sy, zy, a.dtype),), steps=1)

    return row


def _of_one(function: Callable[[Node, Any], Any]) -> Recompute:
    """x, sx, zx, sy, zy."""

    def row(node: Node, inputs: Inputs) -> Iterator[Way]:
        x, sx, zx, sy, zy = (*inputs, None)[:5]
        yield Way((_bytes(function(node, _float(x, sx, zx)), sy, zy, x.dtype),), steps=1)

    return row


def _sigmoid(_: Node, x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def _leaky(node: Node, x: Array) -> Array:
    return np.where(x < 0, x * np.float32(node.attribute("alpha", 0.01)), x)


def _pooled(node: Node, x: Array) -> Array:
    start = 1 if node.attribute("channels_last", 0) else 2
    axes = tuple(range(start, start + x.ndim - 2))
    return np.asarray(x.mean(axis=axes, keepdims=True, dtype=np.float64))


def _concatenated(node: Node, inputs: Inputs) -> Iterator[Way]:
    """sy, zy, then x, s, z of each part."""
    sy, zy, *rest = inputs
    parts = [_float(*rest[at : at + 3]) for at in range(0, len(rest), 3)]
    whole = np.concatenate(parts, node.attribute("axis"))
    yield Way((_bytes(whole, sy, zy, rest[0].dtype),), steps=1)


ELEMENTWISE: dict[str, Recompute] = {
    "com.microsoft.QLinearAdd": _of_two(np.add),
    "com.microsoft.QLinearMul": _of_two(np.multiply),
    "com.microsoft.QLinearSigmoid": _of_one(_sigmoid),
    "com.microsoft.QLinearLeakyRelu": _of_one(_leaky),
    "com.microsoft.QLinearGlobalAveragePool": _of_one(_pooled),
    "com.microsoft.QLinearConcat": _concatenated,
}
