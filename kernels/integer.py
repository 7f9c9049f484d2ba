"""Products of 8-bit integers in 32 bits.

    C = (A - a_zero) (B - b_zero)          A [M, K], B [K, N], 8 bits, signed or not; C int32 [M, N]
      = A' B' + left right                 A' unsigned, B' signed; left [M, 2], right [2, N]

Codes of the other sign are moved by 128, and their zero points with them, so that one product of
unsigned and signed bytes is left, and a sum of rank 2. All exact, modulo 2^32 as in ONNX.

`saturate` gives what processors without VNNI make of it where they add pairs of products in 16
bits (vpmaddubsw, as ONNX Runtime uses it for signed B): a0 b0 + a1 b1 clipped to int16, and so on.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.linear import requantize
from onnx_compress.kernels.machine import paths

Array = npt.NDArray[Any]

_MODULES = {"portable": "loops", "avx2": "simd", "avx512vnni": "simd"}


@dataclass(frozen=True)
class IntegerMatrix:
    """B [rows, columns], laid out for one path. `sums`: of its columns as `signed` codes, int32.

    `moved`: 128 where B is unsigned, else 0.
    """

    path: str
    saturate: bool
    rows: int
    columns: int
    moved: int
    data: Any
    sums: Array


def prepare(b: Array, *, saturate: bool = False, path: str | None = None) -> IntegerMatrix:
    """Lay out B, int8 or uint8 [K, N], to be multiplied with often.

    Only products with signed B saturate. Raises ValueError for other types and ranks.
    """
    if b.dtype not in (np.int8, np.uint8) or b.ndim != 2:
        raise ValueError(f"B is int8 or uint8 of rank 2, not {b.dtype} of rank {b.ndim}")
    chosen = paths.select(path)
    moved = 128 if b.dtype == np.uint8 else 0
    saturate = saturate and not moved
    codes = (b ^ np.uint8(0x80)).view(np.int8) if moved else b
    data = _loops(chosen).lay_out(codes, chosen, saturate)
    sums = codes.sum(0, dtype=np.int32)
    return IntegerMatrix(chosen, saturate, b.shape[0], b.shape[1], moved, data, sums)


def matmul_integer(
    a: Array,
    b: Array | IntegerMatrix,
    a_zero: Any = 0,
    b_zero: Any = 0,
    *,
    saturate: bool = False,
    threads: int = 1,
    path: str | None = None,
) -> Array:
    """int32 [..., M, N] of A [..., M, K] and B [..., K, N] or prepared: MatMulInteger.

    `a_zero`: one integer or one for each row [M]; `b_zero`: one or one for each column [N]. Ranks
    broadcast as in MatMul. Raises ValueError where shapes or types do not fit.
    """
    if a.dtype not in (np.int8, np.uint8):
        raise ValueError(f"A is int8 or uint8, not {a.dtype}")
    if a.ndim == 1:
        return matmul_integer(
            a[None], b, a_zero, b_zero, saturate=saturate, threads=threads, path=path
        )[..., 0, :]
    if isinstance(b, IntegerMatrix) or b.ndim <= 2:
        if not isinstance(b, IntegerMatrix):
            b = prepare(b, saturate=saturate, path=path)
        rows = a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1])
        zero = np.asarray(a_zero, np.int32)
        if zero.size > 1:
            zero = np.broadcast_to(zero.reshape(-1), a.shape[:-1]).reshape(-1)
        out = _product(rows, b, zero, np.asarray(b_zero, np.int32), threads)
        return out.reshape(*a.shape[:-1], b.columns)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    many = np.broadcast_to(a, batch + a.shape[-2:]), np.broadcast_to(b, batch + b.shape[-2:])
    stacked = np.empty((*batch, a.shape[-2], b.shape[-1]), np.int32)
    for at in np.ndindex(*batch):
        stacked[at] = matmul_integer(
            many[0][at],
            many[1][at],
            _of_batch(a_zero, at),
            _of_batch(b_zero, at),
            saturate=saturate,
            threads=threads,
            path=path,
        )
    return stacked


def qlinear_matmul(
    a: Array,
    a_scale: Any,
    a_zero: Any,
    b: Array | IntegerMatrix,
    b_scale: Any,
    b_zero: Any,
    y_scale: Any,
    y_zero: Any,
    *,
    saturate: bool = False,
    threads: int = 1,
    path: str | None = None,
) -> Array:
    """Codes [..., M, N] of the type of `y_zero`: QLinearMatMul.

    clip(rint(float32(acc) * float32(float32(s_a * s_b) / s_y)) + z_y), halves to even. `b_scale`:
    one float or one for each column.
    """
    sums = matmul_integer(a, b, a_zero, b_zero, saturate=saturate, threads=threads, path=path)
    scale = combined_scale(a_scale, b_scale, y_scale)
    zero = np.asarray(y_zero)
    return requantize(sums, scale, int(zero.reshape(())), dtype=zero.dtype, threads=threads)


def combined_scale(a_scale: Any, b_scale: Any, y_scale: Any) -> Array:
    """float32(float32(s_a * s_b) / s_y): what the sums of a product of codes are multiplied by."""
    product = np.asarray(a_scale, np.float32) * np.asarray(b_scale, np.float32)
    out: Array = product / np.asarray(y_scale, np.float32)
    return out


def _product(a: Array, b: IntegerMatrix, a_zero: Array, b_zero: Array, threads: int) -> Array:
    if a.shape[1] != b.rows:
        raise ValueError(f"A of shape {a.shape} and B of {(b.rows, b.columns)} do not fit")
    moved = 0
    if a.dtype == np.int8:
        a, moved = a.view(np.uint8) ^ np.uint8(0x80), 128
    a = np.ascontiguousarray(a)
    left = np.empty((a.shape[0], 2), np.int32)
    right = np.empty((2, b.columns), np.int32)
    right[1] = b_zero.reshape(-1) - np.int32(b.moved)
    left[:, 0] = a_zero.reshape(-1) + np.int32(moved)
    right[0] = np.int32(b.rows) * right[1] - b.sums
    left[:, 1] = -a.sum(1, dtype=np.int32) if right[1].any() else 0
    out = np.empty((a.shape[0], b.columns), np.int32)
    if out.size:
        _loops(b.path).product(a, b.data, left, right, out, b.path, threads)
    return out


def _of_batch(zero: Any, at: tuple[int, ...]) -> Any:
    """The zero points of one product of a batch: those with a rank of their own are per product."""
    zero = np.asarray(zero)
    if zero.ndim <= 1:
        return zero
    return zero[tuple(min(i, dim - 1) for i, dim in zip(at, zero.shape, strict=False))].reshape(-1)


def _loops(path: str) -> ModuleType:
    return import_module(f"onnx_compress.kernels.{_MODULES[path]}.integer")
