"""GPTQ: columns are rounded one after the other, and the rest takes over the error.

    U = upper Cholesky factor of H^-1        W[:, k+1:] -= (w_k - v_k) / U_kk * U[k, k+1:]

Columns go by falling H_kk where the group is a whole row (act order), else from the left. Source:
Frantar et al., 2210.17323.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]
_BLOCK = 128


def gptq(weight: Array, moment: Array, grid: Grid, threads: int | None = None) -> Array:
    """Codes [R, K] on a given grid. `moment`: [K, K], damped, positive definite."""
    from scipy.linalg import cholesky, lapack
    from threadpoolctl import threadpool_limits

    array, h = np.asarray(weight, np.float64), np.asarray(moment, np.float64)
    columns = array.shape[1]
    order = np.arange(columns)
    if grid.group >= columns:
        order = np.argsort(-np.diagonal(h), kind="stable")
    with threadpool_limits(1):
        low = cholesky(h[np.ix_(order, order)], lower=True)
        inverse, _ = lapack.dpotri(low, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        upper = cholesky(inverse, lower=False)

    def solve(w: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        part = Grid(scale, zero, grid.bits, grid.group, columns)
        wide = part.spread(part.scale)[:, order], part.spread(part.zero)[:, order]
        return (_round(w[:, order].copy(), upper, *wide, grid.top),)

    (found,) = over_rows(solve, array, grid.scale, grid.zero, threads=threads)
    codes = np.empty_like(found)
    codes[:, order] = found
    return codes


def _round(w: Array, upper: Array, scale: Array, zero: Array, top: int) -> Array:
    codes = np.empty_like(w)
    for start in range(0, w.shape[1], _BLOCK):
        block = slice(start, min(start + _BLOCK, w.shape[1]))
        errors = np.empty((len(w), block.stop - start))
        for k in range(start, block.stop):
            q = np.clip(np.round(w[:, k] / scale[:, k] + zero[:, k]), 0, top)
            error = (w[:, k] - scale[:, k] * (q - zero[:, k])) / upper[k, k]
            w[:, k + 1 : block.stop] -= error[:, None] * upper[k, k + 1 : block.stop]
            codes[:, k], errors[:, k - start] = q, error
        w[:, block.stop :] -= errors @ upper[block, block.stop :]
    return codes
