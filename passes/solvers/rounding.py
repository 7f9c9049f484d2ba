"""Grids without correlations: minimum to maximum, and the clipping that costs least.

    min_max       scale = (max - min) / (2^bits - 1)
    mse_clip      the share c of that range with the least sum of d_k (w_k - v_k)^2

d = 1, or diag(H): that is the loss J with the inputs taken for uncorrelated. Sources: Banner et
al. 2019 (1810.05723), OMSE (1902.06822); any search over c finds what they do.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid, between, counted, group_size, groups
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]
SHARES = np.linspace(1.0, 0.4, 25)  # of the range that clipping tries
_PIECE = 1 << 16  # numbers tried at a time: they stay in the cache


def min_max(weight: Array, bits: int, group: int = 0, symmetric: bool = False) -> Grid:
    """The grid from the smallest to the largest number of each group; 0: a group is a row.

    `weight`: [..., R, K]. Zero is one of its numbers, so that zeros stay.
    """
    array = np.asarray(weight)
    size = group_size(group, array.shape[-1])
    low, high = _range(array, size)
    return Grid(*between(low, high, bits, symmetric), bits, size, array.shape[-1])


def mse_clip(
    weight: Array,
    bits: int,
    group: int = 0,
    symmetric: bool = False,
    importance: Array | None = None,
    threads: int | None = None,
) -> Grid:
    """The grid, out of `SHARES` of the whole range, with the least squared error.

    `weight`: [R, K] or [G, R, K]. `importance`: [K] or [G, K], such as diag(H). Of equal ones the
    wider. Errors are compared in single precision.
    """
    array = np.asarray(weight)
    size = group_size(group, array.shape[-1])
    low, high = _range(array, size)
    d = counted(importance, array.shape, size)
    d = (d / max(float(d.max(initial=0.0)), np.finfo(float).tiny)).astype(np.float32)

    def solve(d: Array, w: Array, low: Array, high: Array) -> tuple[Array, ...]:
        best = np.empty(low.shape)
        for at in range(low.shape[-1]):
            part = w[..., at * size : (at + 1) * size]
            ends = low[..., at].reshape(-1), high[..., at].reshape(-1)
            costs = np.repeat(d[:, at, : part.shape[-1]], 1 if len(d) == 1 else w.shape[1], axis=0)
            numbers = part.reshape(-1, part.shape[-1])
            best[..., at] = _clipped(numbers.T, costs.T, *ends, bits, symmetric).reshape(
                w.shape[:2]
            )
        return (best,)

    (share,) = over_rows(solve, d, array, low, high, threads=threads, least=128)
    return Grid(*between(share * low, share * high, bits, symmetric), bits, size, array.shape[-1])


def _clipped(w: Array, d: Array, low: Array, high: Array, bits: int, symmetric: bool) -> Array:
    """The best share of each row; w: [n, R], d: [n, R] or [n, 1], low and high: [R].

    Rows lie last, so that all operations run along them.
    """
    best = np.empty(low.shape)
    step = max(_PIECE // max(len(w), 1), 1)
    for at in range(0, len(low), step):
        place = slice(at, at + step)
        part = np.ascontiguousarray(w[:, place], np.float32)
        cost = d if d.shape[1] == 1 else d[:, place]
        best[place] = _best_share(part, cost, low[place], high[place], bits, symmetric)
    return best


def _best_share(w: Array, d: Array, low: Array, high: Array, bits: int, symmetric: bool) -> Array:
    top = (1 << bits) - 1
    best, least = np.ones(low.shape), np.full(low.shape, np.inf, np.float32)
    change, codes = np.empty_like(w), np.empty_like(w)
    for share in SHARES:
        exact = between(share * low, share * high, bits, symmetric)
        scale, zero = (found.astype(np.float32) for found in exact)
        np.divide(w, scale, out=change)
        np.add(change, zero, out=codes)
        np.round(codes, out=codes)
        np.clip(codes, 0, top, out=codes)
        codes -= zero
        change -= codes
        change *= change
        change *= d
        cost = change.sum(0) * scale**2
        better = cost < least
        least = np.where(better, cost, least)
        best = np.where(better, share, best)
    return best


def _range(array: Array, size: int) -> tuple[Array, Array]:
    """Least and largest number of each group, float64 [..., R, G]."""
    parts = groups(array, size)
    if not parts.size:
        empty = np.zeros(parts.shape[:-1])
        return empty, empty
    return parts.min(-1).astype(np.float64), parts.max(-1).astype(np.float64)
