"""Weights of -1, 0 and 1:  y = x t^T * s,  t [N, K], one scale for each row.

    byte = (t0 + 1) | (t1 + 1) << 2 | (t2 + 1) << 4 | (t3 + 1) << 6

The codes of two bits with zero point 1, so that MatMulNBits can hold them as well.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels import nbits, packing

Array = npt.NDArray[Any]

_BLOCK = 256
_EXACT = 1 << 17  # columns: sums of 127 stay below 2^24, where float32 has every integer


@dataclass(frozen=True)
class TernaryMatrix:
    """Weights [rows, columns] laid out for one path. `scale`: float32 [rows]."""

    blocks: nbits.BlockMatrix
    scale: Array


def pack_ternary(t: Array) -> Array:
    """uint8 [N, ceil(K / 4)] of t, integers [N, K] of -1, 0, 1. Raises ValueError for others."""
    if t.size and (t.min() < -1 or t.max() > 1):
        raise ValueError("a ternary weight is -1, 0 or 1")
    return packing.pack(t.astype(np.int8) + np.int8(1), 2)


def unpack_ternary(packed: Array, columns: int) -> Array:
    """int8 [N, columns] of what `pack_ternary` gave."""
    codes = packing.unpack(packed, 2, columns).view(np.int8)
    return codes - np.int8(1)


def prepare(packed: Array, scale: Any, *, columns: int, path: str | None = None) -> TernaryMatrix:
    """Lay out weights, uint8 [N, ceil(columns / 4)], to be multiplied with often.

    `scale`: float32, one, or one for each row. Raises ValueError for more than 131,072 columns.
    """
    if columns > _EXACT:
        raise ValueError(f"ternary products have at most {_EXACT} columns, not {columns}")
    rows = packed.shape[0]
    blocks = -(-columns // _BLOCK)
    whole = np.full((rows, blocks * _BLOCK // 4), 0x55, np.uint8)  # beyond the columns: zeros
    codes = packing.unpack(packed, 2, columns)
    own = packing.pack(np.pad(codes, ((0, 0), (0, -columns % 4)), constant_values=1), 2)
    whole[:, : own.shape[1]] = own
    ones = np.ones((rows, blocks), np.float32)
    kept = nbits.BlockCodes(
        2, _BLOCK, columns, whole.reshape(rows, blocks, _BLOCK // 4), ones, ones
    )
    scales = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), (rows,))
    return TernaryMatrix(nbits.prepare(kept, path=path), scales)


def ternary_dot(x: Array, weights: TernaryMatrix, *, threads: int = 1) -> Array:
    """int32 [..., N] of x, int8 [..., K], without the scale: exact."""
    matrix = weights.blocks
    codes = matrix.codes
    if x.dtype != np.int8 or x.shape[-1] != codes.columns:
        raise ValueError(f"x is int8 [..., {codes.columns}], not {x.dtype} {x.shape}")
    rows = x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    wide = np.pad(rows, ((0, 0), (0, -rows.shape[1] % _BLOCK)))
    out = np.empty((len(rows), codes.rows), np.float32)
    if out.size:
        ones = np.ones((len(rows), codes.blocks), np.float32)
        nbits.loops(matrix.path).product(wide, ones, matrix, out, threads)
    return out.astype(np.int32).reshape(*x.shape[:-1], codes.rows)


def matmul_ternary(
    x: Array, weights: TernaryMatrix, *, accuracy_level: int = 4, threads: int = 1
) -> Array:
    """float32 [..., N] of x, float32 [..., K].

    Level 4: each row of x as int8 with t = max|x| / 127, y = float32(xq t^T) * (t s). Level 0: x as
    it is, y = (x t^T) * s, sums in any order.
    """
    x = np.asarray(x, np.float32)
    if accuracy_level == 0:
        plain = nbits.matmul_nbits(x, weights.blocks, accuracy_level=0, threads=threads)
        scaled: Array = plain * weights.scale
        return scaled
    if accuracy_level != 4:
        raise ValueError(f"accuracy level {accuracy_level} is neither 0 nor 4")
    rows = x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    codes, scale = nbits.quantize_blocks(rows, max(1, rows.shape[1]))
    sums = ternary_dot(codes, weights, threads=threads).astype(np.float32)
    out: Array = sums * (scale[:, :1] * weights.scale) if scale.size else sums
    return out.reshape(*x.shape[:-1], weights.blocks.codes.rows)
