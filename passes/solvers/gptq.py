"""GPTQ: columns are rounded one after the other, and the rest takes over the error.

    H^-1 = UT U, U upper        W[:, k+1:] -= (w_k - v_k) / U_kk * U[k, k+1:]

Columns go by falling H_kk where the group is a whole row (act order), else from the left. With
flipped rows and columns H = L LT, and U is the inverse of L flipped back: one factorization and
the inverse of a triangle, in double precision; the rest in single. Source: Frantar et al.,
2210.17323.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.descent import turned
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.levels import Affine
from onnx_compress.passes.solvers.parallel import one_thread, over_rows

Array = npt.NDArray[Any]
_BLOCK, _STEP = 256, 32  # columns after which all the rest follows, and after which the block does


def gptq(
    weight: Array, moment: Array, grid: Grid, threads: int | None = None, upper: Array | None = None
) -> Array:
    """Codes on a given grid, float32, of the shape of the weight.

    `weight`: [R, K] or [G, R, K]; `moment`: [K, K] or [G, K, K], damped, positive definite, or
    numpy.linalg.LinAlgError is raised. `upper`: `inverse_factor(moment)`, if it is known.
    """
    array, h = np.asarray(weight, np.float32), np.asarray(moment, np.float64)
    order = np.broadcast_to(np.arange(grid.columns), h.shape[:-1])
    if grid.group >= grid.columns:
        diagonal = np.diagonal(h, axis1=-2, axis2=-1)
        order, upper = np.argsort(-diagonal, axis=-1, kind="stable"), None
    if upper is None:
        upper = inverse_factor(h, order)

    def solve(upper: Array, w: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        levels = Affine(turned(scale), turned(zero), grid.top, grid.group)
        return (turned(levels.codes(_rounded(turned(w), upper, levels))),)

    ordered = np.take_along_axis(array, order[..., None, :], -1)
    (found,) = over_rows(solve, upper, ordered, grid.scale, grid.zero, threads=threads)
    codes = np.empty_like(found)
    np.put_along_axis(codes, np.broadcast_to(order[..., None, :], codes.shape), found, -1)
    return codes


def inverse_factor(moment: Array, order: Array | None = None) -> Array:
    """U with UT U = H^-1, columns of H in the order given, [..., K]. [..., K, K], float32."""
    from scipy.linalg import lapack

    found = np.empty(moment.shape, np.float32)
    if not moment.size:
        return found
    columns = moment.shape[-1]
    flat, out = (each.reshape(-1, columns, columns) for each in (moment, found))
    turns = np.broadcast_to(np.arange(columns) if order is None else order, moment.shape[:-1])
    with one_thread():
        for at, turn in enumerate(turns.reshape(-1, columns)[:, ::-1]):
            low = np.linalg.cholesky(flat[at][np.ix_(turn, turn)])
            out[at] = lapack.dtrtri(low, lower=1)[0][::-1, ::-1]
    return found


def _rounded(w: Array, upper: Array, levels: Affine) -> Array:
    """The numbers [B, K, R], left in `w`. upper: [B, K, K]."""
    columns = w.shape[1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((w.shape[0], stop - start, w.shape[2]), np.float32)
        for low in range(start, stop, _STEP):
            high = min(low + _STEP, stop)
            own = slice(low, high)
            errors[:, low - start : high - start] = levels.round(low, w, upper[:, own, own])
            _follow(w, upper, own, slice(high, stop), errors[:, low - start :])
        for chunk in range(stop, columns, _BLOCK):
            rest = slice(chunk, min(chunk + _BLOCK, columns))
            _follow(w, upper, slice(start, stop), rest, errors)
    return w


def _follow(w: Array, upper: Array, done: slice, rest: slice, errors: Array) -> None:
    share = np.swapaxes(upper[:, done, rest], 1, 2)
    w[:, rest] -= share @ errors[:, : done.stop - done.start]
