"""Affine integer codes:  w ~ (q - z) * s,  q an integer, s and z shared along some axes."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int8]

_PIECE = 1 << 22  # elements converted at a time, so that temporaries stay small


def symmetric_scale(array: Array, axes: tuple[int, ...], bits: int) -> Array:
    """Scale that maps the largest magnitude of each channel to the largest code.

    `array`: floats of any shape; `axes`: the axes that have a scale of their own. The result has
    the rank of `array`, size 1 in all other axes, and its dtype, at least float32. Channels of
    zeros get 1.
    """
    return scale_for(largest(array, axes), bits)


def largest(array: Array, axes: tuple[int, ...]) -> Array:
    """Largest magnitude of each channel, for `symmetric_scale`: its shape and dtype.

    The largest of several pieces is the largest of theirs.
    """
    if array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    others = tuple(axis for axis in range(array.ndim) if axis not in axes)
    if array.size == 0:
        shape = [array.shape[axis] if axis in axes else 1 for axis in range(array.ndim)]
        return np.zeros(shape, array.dtype)
    out: Array = np.maximum(
        array.max(axis=others, keepdims=True), -array.min(axis=others, keepdims=True)
    )
    return out


def scale_for(top: Array, bits: int) -> Array:
    """Scale that maps `top`, magnitudes, to the largest code of `bits` bits; zeros get 1."""
    scale = top.astype(np.float64) / (2 ** (bits - 1) - 1)
    # a scale below the normal range would lose its digits, and runtimes flush it to zero
    tiny = float(np.finfo(top.dtype).tiny)
    out: Array = np.where(top > 0, np.maximum(scale, tiny), 1.0).astype(top.dtype)
    return out


def quantize(array: Array, scale: Array, bits: int) -> Codes:
    """Symmetric codes: clip(rint(w / s)), half to even, within +-(2^(bits-1) - 1).

    `scale` broadcasts to `array`. Division in the dtype of `array`, as QuantizeLinear does it.
    """
    top = 2 ** (bits - 1) - 1
    work = np.promote_types(array.dtype, np.float32) if array.dtype.kind == "f" else np.float32
    out = np.empty(array.shape, np.int8)
    rows = max(1, _PIECE // max(1, array[:1].size)) if array.ndim else 1
    spread = np.broadcast_to(scale, array.shape)
    if array.ndim == 0:
        out[...] = np.clip(np.rint(array / scale), -top, top)
        return out
    for start in range(0, len(array), rows):
        part = slice(start, start + rows)
        ratio = array[part].astype(work, copy=False) / spread[part]
        np.rint(ratio, out=ratio)
        np.clip(ratio, -top, top, out=ratio)
        out[part] = ratio
    return out


def dequantize(codes: Array, scale: Array | None, zero_point: Array | None, dtype: Any) -> Array:
    """(q - z) * s in `dtype`, one rounding an operation: what Cast -> Sub -> Mul computes."""
    out: Array = codes.astype(dtype)
    if zero_point is not None:
        out -= zero_point.astype(dtype)
    if scale is not None:
        out *= scale.astype(dtype)
    return out
