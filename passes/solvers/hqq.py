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

from onnx_compress.passes.solvers.grid import Grid, groups
from onnx_compress.passes.solvers.rounding import min_max

Array = npt.NDArray[Any]
_POWER, _BETA, _GROWTH, _TURNS = 0.7, 10.0, 1.01, 20


def hqq(weight: Array, bits: int, group: int = 0) -> Grid:
    """A grid whose zeros are no whole numbers; never with a larger mean error than the first."""
    array = np.asarray(weight, np.float64)
    grid = best = min_max(array, bits, group)
    parts = groups(array, grid.group)
    scale, beta = grid.scale[..., None], _BETA
    least = float(np.abs(array - grid.nearest(array)).mean())
    for _ in range(_TURNS):
        zero = grid.zero[..., None]
        codes = np.clip(np.round(parts / scale + zero), 0, grid.top)
        change = parts - scale * (codes - zero)
        error = _shrunk(change, beta)
        grid = replace(grid, zero=(codes - (parts - error) / scale).mean(2))
        beta *= _GROWTH
        found = float(np.abs(array - grid.nearest(array)).mean())
        if found >= least:
            break
        best, least = grid, found
    return best


def _shrunk(change: Array, beta: float) -> Array:
    size = np.abs(change)
    shrink = np.where(size > 0, np.maximum(size, 1e-12) ** (_POWER - 1) / beta, 0.0)
    return np.asarray(np.sign(change) * np.maximum(size - shrink, 0.0))
