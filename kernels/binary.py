"""Products of signs: XNOR and population count.

+1 -> bit 1, -1 -> bit 0        a . b = K - 2 popcount(a xor b)

y[i, j] = sum_p sum_q  a_scale[p, i] b_scale[q, j] (A_p[i] . B_q[j])      several bases each
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine import paths

Array = npt.NDArray[Any]

_MODULES = {"portable": "loops", "avx2": "simd", "avx512vnni": "simd"}


@dataclass(frozen=True)
class SignMatrix:
    """Signs [rows, columns] of B, one row for each output feature, laid out for one path."""

    path: str
    rows: int
    columns: int
    data: tuple[Array, ...]


def pack_signs(x: Array) -> Array:
    """uint64 [..., ceil(K / 64)] of x [..., K]: bit k % 64 of word k // 64 is x[k] >= 0.

    Bits beyond K are 0.
    """
    count = x.shape[-1]
    bits = np.zeros((*x.shape[:-1], -(-count // 64) * 64), bool)
    bits[..., :count] = x >= 0
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def unpack_signs(words: Array, columns: int) -> Array:
    """int8 [..., columns] of 1 and -1."""
    raw = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(raw, axis=-1, bitorder="little")[..., :columns]
    out: Array = bits.view(np.int8) * np.int8(2) - np.int8(1)
    return out


def prepare(words: Array, columns: int, *, path: str | None = None) -> SignMatrix:
    """Lay out B, uint64 [N, ceil(columns / 64)] of `pack_signs`, to be multiplied with often."""
    _check(words, columns)
    chosen = paths.select(path)
    data = loops(chosen).lay_out(np.ascontiguousarray(words), chosen)
    return SignMatrix(chosen, words.shape[0], columns, data)


def xnor_dot(a: Array, b: SignMatrix, *, threads: int = 1) -> Array:
    """int32 [M, N]: products of signs. `a`: uint64 [M, ceil(columns / 64)] of `pack_signs`."""
    _check(a, b.columns)
    out = np.empty((a.shape[0], b.rows), np.int32)
    if out.size:
        loops(b.path).product(np.ascontiguousarray(a), b, out, threads)
    return out


def matmul_binary(
    a: Array, a_scale: Array, b: list[SignMatrix], b_scale: Array, *, threads: int = 1
) -> Array:
    """float32 [M, N] of several bases.

    `a`: uint64 [P, M, words]; `a_scale`: float32 [P, M]; `b`: Q matrices; `b_scale`: float32
    [Q, N]. Summed with p outside and q inside, each step rounded.
    """
    out = np.zeros((a.shape[1], b[0].rows), np.float32)
    for words, left in zip(a, np.asarray(a_scale, np.float32), strict=True):
        for matrix, right in zip(b, np.asarray(b_scale, np.float32), strict=True):
            dots = xnor_dot(words, matrix, threads=threads).astype(np.float32)
            out += dots * (left[:, None] * right)
    return out


def decode_binary(words: Array, scale: Array, columns: int) -> Array:
    """float32 [N, columns]: sum_q scale[q, n] signs_q. words uint64 [Q, N, W], scale [Q, N]."""
    signs = unpack_signs(words, columns).astype(np.float32)
    out: Array = (signs * np.asarray(scale, np.float32)[..., None]).sum(0, dtype=np.float32)
    return out


def loops(path: str) -> ModuleType:
    """The module of a path: `lay_out`, `product`."""
    return import_module(f"onnx_compress.kernels.{_MODULES[path]}.binary")


def _check(words: Array, columns: int) -> None:
    wanted = -(-columns // 64)
    if words.dtype != np.uint64 or words.ndim != 2 or words.shape[1] != wanted:
        raise ValueError(f"signs are uint64 [rows, {wanted}], not {words.dtype} {words.shape}")
