"""Affine codes, as ONNX's operators make and read them.

    QuantizeLinear          q = clip(rint(x / s) + z)           division in float32, halves to even
    DequantizeLinear        x = (q - z) * s
    DynamicQuantizeLinear   s = (max - min) / 255,  z = rint(-min / s),  0 within [min, max]
    requantize              q = clip(rint(float32(acc) * s) + z)

Source: onnx.ai/onnx/operators, and what ONNX Runtime computes, bit for bit, on finite numbers.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import Kernel, kernel
from onnx_compress.kernels.machine.threads import spread
from onnx_compress.kernels.scales import Rows, rows_of

Array = npt.NDArray[Any]

_GRAIN = 1 << 15  # elements that are worth handing to a thread


def quantize_linear(
    x: Array,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    dtype: Any = np.uint8,
    bits: int = 0,
    threads: int = 1,
) -> Array:
    """Codes of `x`, float32 of any shape: QuantizeLinear.

    `scale`, `zero_point`: one element, one for each index along `axis`, or, with `block_size`, of
    the shape of `x` with ceil(D / block_size) along `axis`. `dtype`: 8- or 16-bit integers, of
    which the values of `bits` bits are used (4 and 2 for int4 and its relatives, one code in each
    byte). Raises ValueError where shapes do not fit.
    """
    x = np.ascontiguousarray(x, np.float32)
    rows = rows_of(x.shape, scale, zero_point, axis, block_size)
    out = np.empty(x.shape, dtype)
    _run(_quantize, rows, x, out, threads, *_bounds(dtype, bits))
    return out


def dequantize_linear(
    codes: Array,
    scale: Any,
    zero_point: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    out: Array | None = None,
    threads: int = 1,
) -> Array:
    """float32 of codes, 8-, 16- or 32-bit integers: DequantizeLinear; see `quantize_linear`.

    `out`: where to put it, float32 of the same shape, C-contiguous. Codes of 4 and 2 bits are
    unpacked first (`packing.unpack`). Raises ValueError where shapes do not fit.
    """
    codes = np.ascontiguousarray(codes)
    rows = rows_of(codes.shape, scale, zero_point, axis, block_size)
    if out is None:
        out = np.empty(codes.shape, np.float32)
    if out.shape != codes.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be float32 of shape {codes.shape}, C-contiguous")
    _run(_dequantize, rows, codes, out, threads)
    return out


def dynamic_quantize(x: Array) -> tuple[Array, np.float32, np.uint8]:
    """Codes (uint8), scale and zero point of `x`, float32 of any shape: DynamicQuantizeLinear.

    All zeros, or nothing, have scale 1 and zero point 0.
    """
    x = np.asarray(x, np.float32)
    low, high = (
        np.minimum(x.min(initial=0), np.float32(0)),
        np.maximum(x.max(initial=0), np.float32(0)),
    )
    scale = np.float32((high - low) / np.float32(255))
    if scale == 0:
        scale = np.float32(1)
    zero = np.uint8(np.clip(np.rint(np.float32(0) - low / scale), 0, 255))
    return quantize_linear(x, scale, zero), scale, zero


def requantize(
    accumulator: Array,
    scale: Any,
    zero_point: int = 0,
    *,
    axis: int = -1,
    dtype: Any = np.uint8,
    threads: int = 1,
) -> Array:
    """Codes of int32 sums: what QLinearMatMul and QLinearConv end with.

    `scale`: float32(float32(s_a * s_b) / s_y), one element or one for each index along `axis`.
    `zero_point`: of the output. Raises ValueError where shapes do not fit.
    """
    sums = np.ascontiguousarray(accumulator, np.int32)
    zeros = np.full(np.shape(scale), zero_point, np.int32)
    out = np.empty(sums.shape, dtype)
    _run(
        _requantize,
        rows_of(sums.shape, scale, zeros, axis, 0),
        sums,
        out,
        threads,
        *_bounds(dtype, 0),
    )
    return out


def _bounds(dtype: Any, bits: int) -> tuple[np.float32, np.float32]:
    """Smallest and largest code of an integer type, or of `bits` bits of its kind."""
    info = np.iinfo(dtype)
    if not bits:
        return np.float32(info.min), np.float32(info.max)
    if info.min:
        return np.float32(-(2 ** (bits - 1))), np.float32(2 ** (bits - 1) - 1)
    return np.float32(0), np.float32(2**bits - 1)


def _run(loop: Kernel, rows: Rows, x: Array, out: Array, threads: int, *more: Any) -> None:
    """A loop over rows, cut into pieces of rows, or of the only row."""
    if not x.size:
        return
    source, target = x.reshape(rows.rows, rows.length), out.reshape(rows.rows, rows.length)
    scale, zero = rows.scale, rows.zero_point

    def by_row(start: int, stop: int) -> None:
        cut = slice(start, stop)
        loop(source[cut], scale, zero, start, rows.every, target[cut], *more)

    def within_row(start: int, stop: int) -> None:
        cut = slice(start, stop)
        own = cut if scale.shape[1] > 1 else slice(None)
        loop(source[:, cut], scale[:, own], zero[:, own], 0, 1, target[:, cut], *more)

    if rows.rows == 1:
        spread(within_row, rows.length, _GRAIN, threads)
    else:
        spread(by_row, rows.rows, max(1, _GRAIN // rows.length), threads)


@kernel(writes=("out",))
def _quantize(
    x: Any, scale: Any, zero: Any, first: int, every: int, out: Any, low: Any, high: Any
) -> None:
    for row in range(x.shape[0]):
        at = (first + row) // every % scale.shape[0]
        if scale.shape[1] == 1:
            s, z = scale[at, 0], np.float32(zero[at, 0])
            for k in range(x.shape[1]):
                out[row, k] = min(max(np.rint(x[row, k] / s) + z, low), high)
        else:
            for k in range(x.shape[1]):
                q = np.rint(x[row, k] / scale[at, k]) + np.float32(zero[at, k])
                out[row, k] = min(max(q, low), high)


@kernel(writes=("out",))
def _requantize(
    x: Any, scale: Any, zero: Any, first: int, every: int, out: Any, low: Any, high: Any
) -> None:
    for row in range(x.shape[0]):
        at = (first + row) // every % scale.shape[0]
        if scale.shape[1] == 1:
            s, z = scale[at, 0], np.float32(zero[at, 0])
            for k in range(x.shape[1]):
                out[row, k] = min(max(np.rint(np.float32(x[row, k]) * s) + z, low), high)
        else:
            for k in range(x.shape[1]):
                q = np.rint(np.float32(x[row, k]) * scale[at, k]) + np.float32(zero[at, k])
                out[row, k] = min(max(q, low), high)


@kernel(writes=("out",))
def _dequantize(x: Any, scale: Any, zero: Any, first: int, every: int, out: Any) -> None:
    for row in range(x.shape[0]):
        at = (first + row) // every % scale.shape[0]
        if scale.shape[1] == 1:
            s, z = scale[at, 0], np.float32(zero[at, 0])
            for k in range(x.shape[1]):
                out[row, k] = (np.float32(x[row, k]) - z) * s
        else:
            for k in range(x.shape[1]):
                out[row, k] = (np.float32(x[row, k]) - np.float32(zero[at, k])) * scale[at, k]
