"""Grids without correlations: minimum to maximum, and the clipping that costs least.

    min_max       scale = (max - min) / (2^bits - 1)
    mse_clip      the share c of that range with the least sum of d_k (w_k - v_k)^2

d = 1, or diag(H): that is the loss J with the inputs taken for uncorrelated. Sources: Banner et
al. 2019 (1810.05723), OMSE (1902.06822); any search over c finds what they do.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.clipping import cheapest
from onnx_compress.passes.solvers.grid import Grid, between, counted, group_size, groups
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]
SHARES = np.linspace(1.0, 0.4, 25)  # of the range that clipping tries


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
        shape, count = low.shape, w.shape[0] * w.shape[1]
        rows = w.reshape(count, w.shape[2])
        costs = d.reshape(len(d), d.shape[1] * d.shape[2])[:, : w.shape[2]]
        costs = costs if len(d) == 1 else np.repeat(costs, w.shape[1], axis=0)
        ends = low.reshape(count, shape[2]).T, high.reshape(count, shape[2]).T
        return (_best_share(rows, costs, *ends, size, bits, symmetric).reshape(shape),)

    (share,) = over_rows(solve, d, array, low, high, threads=threads)
    return Grid(*between(share * low, share * high, bits, symmetric), bits, size, array.shape[-1])


def _best_share(
    w: Array, d: Array, low: Array, high: Array, size: int, bits: int, symmetric: bool
) -> Array:
    """The best of each group, [R, G]; w: [R, K], d: [R, K] or [1, K], low and high: [G, R]."""
    shares = SHARES[:, None, None]
    scale, zero = between(shares * low, shares * high, bits, symmetric)
    return np.asarray(SHARES[cheapest(w, d, scale, zero, size, (1 << bits) - 1)])


def _range(array: Array, size: int) -> tuple[Array, Array]:
    """Least and largest number of each group, float64 [..., R, G]."""
    parts = groups(array, size)
    if not parts.size:
        empty = np.zeros(parts.shape[:-1])
        return empty, empty
    return parts.min(-1).astype(np.float64), parts.max(-1).astype(np.float64)
