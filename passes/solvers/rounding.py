"""Grids without correlations: minimum to maximum, and the clipping that costs least.

min_max       scale = (max - min) / (2^bits - 1)
mse_clip      the share c of that range with the least sum of d_k (w_k - v_k)^2; d = 1, or diag(H)

Weighting by diag(H) is the loss J with the inputs taken for uncorrelated.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid, between, groups

Array = npt.NDArray[Any]
SHARES = np.linspace(1.0, 0.4, 25)  # of the range that clipping tries


def min_max(weight: Array, bits: int, group: int = 0, symmetric: bool = False) -> Grid:
    """The grid from the smallest to the largest number of each group; 0: a group is a row."""
    array, size = _prepared(weight, group)
    parts = groups(array, size)
    scale, zero = between(parts.min(2), parts.max(2), bits, symmetric)
    return Grid(scale, zero, bits, size, array.shape[1])


def mse_clip(
    weight: Array,
    bits: int,
    group: int = 0,
    symmetric: bool = False,
    importance: Array | None = None,
) -> Grid:
    """The grid, out of shares of the whole range, with the least squared error.

    `importance`: [K] or [R, K], such as diag(H). Ties are for the wider one.
    """
    array, size = _prepared(weight, group)
    parts = groups(array, size)
    ones = np.ones(array.shape[1]) if importance is None else np.asarray(importance)
    weights = groups(np.atleast_2d(ones), size)
    count = parts.shape[1] * size - array.shape[1]
    if count:
        weights = weights.copy()
        weights[:, -1, size - count :] = 0.0  # what only fills up the last group
    low, high = parts.min(2), parts.max(2)
    best = between(low, high, bits, symmetric)
    least = np.full(low.shape, np.inf)
    top = np.float32((1 << bits) - 1)
    # errors are compared in units of the widest number, so that single precision is enough
    unit = np.maximum(-low, high)
    unit = np.where(unit > 0, unit, 1.0)
    scaled = (parts / unit[..., None]).astype(np.float32)
    small = weights.astype(np.float32)
    work = np.empty_like(scaled)
    for share in SHARES:
        scale, zero = between(share * low, share * high, bits, symmetric)
        step, middle = (scale / unit).astype(np.float32)[..., None], zero[..., None].astype("f4")
        np.divide(scaled, step, out=work)
        work += middle
        np.rint(work, out=work)
        np.clip(work, 0, top, out=work)
        work -= middle
        work *= step
        work -= scaled
        error = np.einsum("rgk,rgk,rgk->rg", work, work, np.broadcast_to(small, work.shape))
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, scale, best[0]), np.where(better, zero, best[1])
    return Grid(best[0], best[1], bits, size, array.shape[1])


def _prepared(weight: Array, group: int) -> tuple[Array, int]:
    array = np.asarray(weight, np.float64)
    columns = array.shape[1]
    return array, min(group, columns) if group > 0 else max(columns, 1)
