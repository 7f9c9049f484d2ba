"""Sums of products of bytes, exact, and as processors without VNNI saturate them.

    exact      sum_k (a_k - za)(b_k - zb)
    saturated  sum_k clip16(a_2k b_2k + a_2k+1 b_2k+1) - za sum b - zb sum a + K za zb

The second is what `vpmaddubsw` gives: unsigned times signed bytes, two products a time in 16 bits.
"""

from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array

_FLOAT_EXACT, _LOW, _HIGH = 1 << 24, -(1 << 15), (1 << 15) - 1
_AT_ONCE = 1 << 22  # products in memory


def shifted(array: Array, zero: Any) -> Array:
    """Codes less their zero point, as int32; one zero point, or one for each column."""
    wide = array.astype(np.int32)
    return wide if zero is None else np.asarray(wide - np.asarray(zero).astype(np.int32))


def product(a: Array, b: Array) -> Array:
    """a b of integers, [..., M, K] x [..., K, N]: int32, by float sums that are exact.

    Every partial sum is a whole number below 2^24, or 2^53, which floats hold.
    """
    most = int(np.abs(a).max(initial=0)) * int(np.abs(b).max(initial=0)) * max(a.shape[-1], 1)
    dtype = np.float32 if most < _FLOAT_EXACT else np.float64
    out = a.astype(dtype) @ b.astype(dtype)
    return np.asarray(out.astype(np.int64).astype(np.int32))


def may_saturate(a: Array, b: Array) -> bool:
    """Whether two products of these can leave 16 bits: unsigned and signed bytes, in that order."""
    if a.dtype != np.uint8 or b.dtype != np.int8 or not a.size or not b.size:
        return False
    return 2 * int(a.max()) * int(np.abs(b.astype(np.int32)).max()) > _HIGH


def saturated(a: Array, za: Any, b: Array, zb: Any) -> Array:
    """[M, K] uint8 x [K, N] int8 with zero points, pairs along K clipped to 16 bits; int32."""
    rows, inner = a.shape
    odd = inner % 2
    wide_a = np.pad(a.astype(np.int32), ((0, 0), (0, odd)))
    wide_b = np.pad(b.astype(np.int32), ((0, odd), (0, 0)))
    total = np.empty((rows, b.shape[1]), np.int32)
    step = max(1, _AT_ONCE // max(b.shape[1], 1))
    for start in range(0, rows, step):
        part = wide_a[start : start + step]
        total[start : start + step] = _pairs(part, wide_b)
    shift_a = np.int32(0 if za is None else np.asarray(za).astype(np.int32).reshape(-1)[0])
    total -= shift_a * wide_b.sum(0, dtype=np.int32)
    if zb is not None:
        shift_b = np.asarray(zb).astype(np.int32).reshape(-1)
        total -= wide_a.sum(1, dtype=np.int32)[:, None] * shift_b
        total += np.int32(inner) * shift_a * shift_b
    return total


def _pairs(a: Array, b: Array) -> Array:
    total = np.zeros((len(a), b.shape[1]), np.int32)
    for at in range(0, a.shape[1], 2):
        two = a[:, at, None] * b[at] + a[:, at + 1, None] * b[at + 1]
        total += np.clip(two, _LOW, _HIGH, out=two)
    return total
