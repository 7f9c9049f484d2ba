"""Coordinate descent over codes: the other columns make up for what one column loses.

    g = (W - V) H                                   [R, K]
    v_k <- the number of the grid nearest to v_k + g_k / H_kk,  then g is updated

Each step minimises J over one column with the others fixed, so J never rises. Columns go in blocks:
within a block g is kept up to date, and the rest follows in one product of matrices. Sources: COMQ
(2403.07134), QuantEase (2309.01885).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]
_BLOCK = 128  # columns whose gradients are kept up to date one by one


def descend(
    weight: Array,
    moment: Array,
    grid: Grid,
    start: Array | None = None,
    sweeps: int = 4,
    refit: bool = False,
    threads: int | None = None,
) -> tuple[Array, Grid]:
    """Codes [R, K] with a smaller loss than the start, and the grid that they are of.

    `moment`: [K, K], damped. `start`: codes to begin with, by default the nearest. `refit`: after
    each sweep but the last the scales are fitted to the codes, so the grid changes.
    """
    array = np.asarray(weight, np.float64)
    h = np.ascontiguousarray(moment, np.float32)
    codes = grid.codes(array) if start is None else np.asarray(start, np.float64)
    parameters = (grid.scale, grid.zero)

    def solve(w: Array, q: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        part = Grid(scale, zero, grid.bits, grid.group, grid.columns)
        gradient = None
        for sweep in range(sweeps):
            q, gradient, moved = _sweep(w.astype(np.float32), h, part, q, gradient)
            if refit and sweep < sweeps - 1:
                part, gradient = refitted(w, moment, part, q), None
            elif not moved:
                break
        return q, part.scale

    found, scale = over_rows(solve, array, codes, *parameters, threads=threads)
    return found, Grid(scale, grid.zero, grid.bits, grid.group, grid.columns)


def _sweep(
    w: Array, h: Array, grid: Grid, codes: Array, gradient: Array | None
) -> tuple[Array, Array, bool]:
    """One pass over the columns: codes, the gradient at them, and whether any code changed."""
    scale = grid.spread(grid.scale).astype(np.float32)
    zero = grid.spread(grid.zero).astype(np.float32)
    q = codes.astype(np.float32)
    value = scale * (q - zero)
    diagonal = np.maximum(np.diagonal(h), np.finfo(np.float32).tiny)
    gradient = (w - value) @ h if gradient is None else gradient
    moved = False
    for start in range(0, w.shape[1], _BLOCK):
        block = slice(start, min(start + _BLOCK, w.shape[1]))
        g, corner = gradient[:, block].copy(), h[block, block]
        changes = np.zeros_like(g)
        for at in range(g.shape[1]):
            k = start + at
            aim = value[:, k] + g[:, at] / diagonal[k]
            new = np.clip(np.round(aim / scale[:, k] + zero[:, k]), 0, grid.top)
            step = scale[:, k] * (new - q[:, k])
            # only where the loss falls by more than rounding: what is equal stays
            gain = step * (2 * g[:, at] - step * diagonal[k])
            step = np.where(gain > 0, step, np.float32(0))
            if not step.any():
                continue
            q[:, k] = np.where(step != 0, new, q[:, k])
            changes[:, at] = step
            g -= step[:, None] * corner[at]
        if changes.any():
            moved = True
            value[:, block] += changes
            gradient -= changes @ h[block]
    return q.astype(np.float64), gradient, moved


def refitted(weight: Array, moment: Array, grid: Grid, codes: Array) -> Grid:
    """The scales of least loss for codes as they are, one group after the other.

        d = q - zero      scale += dT g / dT H d,  g = (W - V) H

    Scales that would change sign or vanish stay.
    """
    h = np.asarray(moment, np.float64)
    distance = codes - grid.spread(grid.zero)
    scale = grid.scale.copy()
    gradient = (weight - grid.spread(scale) * distance) @ h
    for at in range(scale.shape[1]):
        place = slice(at * grid.group, min((at + 1) * grid.group, grid.columns))
        d = distance[:, place]
        along = d @ h[place]
        curvature = np.einsum("rk,rk->r", along[:, place], d)
        slope = np.einsum("rk,rk->r", gradient[:, place], d)
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        step = np.where(scale[:, at] + step > 0.1 * scale[:, at], step, 0.0)
        scale[:, at] += step
        gradient -= step[:, None] * along
    return Grid(scale, grid.zero, grid.bits, grid.group, grid.columns)
