"""HQQ: zeros of a grid by half-quadratic splitting, without data.

    minimise |e|_p^p + beta/2 |e - (W - V)|^2       V = scale (q - zero), p = 0.7

In turn e by shrinking (large errors, outliers, are let be), and zero as the mean of
q - (W - e) / scale.
Source: Badri & Shaji 2023 (mobiusml, "Half-Quadratic Quantization").
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid, counted, groups
from onnx_compress.passes.solvers.parallel import over_rows
from onnx_compress.passes.solvers.rounding import min_max

Array = npt.NDArray[Any]
_POWER, _BETA, _GROWTH, _TURNS = 0.7, 10.0, 1.01, 20


def hqq(weight: Array, bits: int, group: int = 0, threads: int | None = None) -> Grid:
    """A grid whose zeros are no whole numbers; no group's mean error is larger than at first.

    `weight`: [R, K] or [G, R, K]. As published, beta is a number of the weight's own unit: another
    scale of the weight may give other zeros.
    """
    array = np.asarray(weight, np.float64)
    grid = min_max(array, bits, group)
    there = counted(None, array.shape, grid.group)

    def solve(there: Array, w: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        d = there[:, None].astype(np.float32)
        parts = (groups(w, grid.group) / scale[..., None]).astype(np.float32)
        return (_zeros(parts, d, scale.astype(np.float32), zero.astype(np.float32), grid.top),)

    (zero,) = over_rows(solve, there, array, grid.scale, grid.zero, threads=threads)
    return replace(grid, zero=zero.astype(np.float64))


def _zeros(parts: Array, d: Array, scale: Array, zero: Array, top: int) -> Array:
    """The best zeros met, [B, R, G]; `parts`: the numbers in units of their scale."""
    best, least = zero, np.full(zero.shape, np.inf, np.float32)
    active, beta = np.ones(zero.shape, bool), _BETA
    for _ in range(_TURNS):
        codes = np.clip(np.rint(parts + zero[..., None]), np.float32(0), np.float32(top))
        change = parts - (codes - zero[..., None])
        found = (d * np.abs(change)).sum(-1)
        active &= found < least  # each group stops by itself, whatever the others do
        if not active.any():
            break
        best, least = np.where(active, zero, best), np.where(active, found, least)
        error = _shrunk(change * scale[..., None], beta) / scale[..., None]
        zero = (d * (codes - parts + error)).sum(-1) / d.sum(-1)
        beta *= _GROWTH
    return best


def _shrunk(change: Array, beta: float) -> Array:
    size = np.abs(change)
    shrink = np.maximum(size, np.float32(1e-12)) ** np.float32(_POWER - 1) / np.float32(beta)
    return np.asarray(np.copysign(np.maximum(size - shrink, 0), change))
