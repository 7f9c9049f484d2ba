"""Where the scale of an element is: one for all, one along an axis, or one for a block of an axis.

    x [outer, D, inner]        scale []                    for all
                               scale [D]                   along the axis
                               scale [outer, B, inner]     of blocks of it, B = ceil(D / block)

Arrays are taken apart into rows of L elements that lie together, so that a row has either one scale
or a scale for each element: what loops can run over without looking anything up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Row r of [rows, length] reads row (r // every) % len(scale) of `scale` and `zero_point`.

    Both are [S, 1], one for a row, or [S, length], one for each of its elements.
    """

    rows: int
    length: int
    every: int
    scale: Array
    zero_point: Array


def rows_of(
    shape: tuple[int, ...],
    scale: Array,
    zero_point: Array | None,
    axis: int,
    block_size: int,
) -> Rows:
    """Take an array of `shape` apart. `scale` becomes float32 and `zero_point` int32.

    A scale of one element is for all; of rank 1, with no block size, along `axis`; else of blocks.
    Raises ValueError where scale and zero point do not fit.
    """
    scale = np.asarray(scale, np.float32)
    zero = np.zeros(scale.shape, np.int32) if zero_point is None else np.asarray(zero_point)
    if zero.size != scale.size:
        raise ValueError(f"a zero point of shape {zero.shape} for a scale of {scale.shape}")
    zero = zero.astype(np.int32).reshape(scale.shape)
    size = int(np.prod(shape))
    if scale.size == 1 and not block_size:
        return Rows(1, size, 1, scale.reshape(1, 1), zero.reshape(1, 1))
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"no axis {axis} in a shape of rank {len(shape)}")
    axis %= len(shape)
    length = shape[axis]
    outer, inner = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    blocks = -(-length // block_size) if block_size else length
    wanted = (*shape[:axis], blocks, *shape[axis + 1 :]) if block_size else (length,)
    if scale.shape != wanted:
        raise ValueError(f"a scale of shape {scale.shape} for {shape}, where {wanted} fits")
    if not block_size and inner > 1:
        return Rows(outer * length, inner, 1, scale.reshape(-1, 1), zero.reshape(-1, 1))
    if not block_size:
        return Rows(outer, length, 1, scale.reshape(1, -1), zero.reshape(1, -1))
    if block_size and length % block_size:  # a block that is cut off: one scale for each element
        scale, zero = (np.repeat(a, block_size, axis) for a in (scale, zero))
        part = tuple(slice(dim) for dim in shape)
        scale, zero = (np.ascontiguousarray(a[part]).reshape(1, size) for a in (scale, zero))
        return Rows(1, size, 1, scale, zero)
    if inner > 1:
        flat = (outer * blocks, inner)
        return Rows(outer * length, inner, block_size, scale.reshape(flat), zero.reshape(flat))
    return Rows(outer * blocks, block_size, 1, scale.reshape(-1, 1), zero.reshape(-1, 1))
