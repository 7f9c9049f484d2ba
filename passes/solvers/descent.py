"""Coordinate descent over codes: the other columns make up for what one column loses.

    g = (W - V) H                                   [R, K]
    q_k <- the code nearest to q_k + g_k / (H_kk scale_k),  then g is updated

Each step minimises J over one column with the others fixed, so J never rises. Columns go in blocks:
within a block g is kept up to date, and the rest follows in one product of matrices. Everything is
held as [K, R], so that a column lies in one piece. Sources: COMQ (2403.07134), QuantEase
(2309.01885).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]
_BLOCK = 32  # columns whose gradients are kept up to date one by one


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
    array = np.asarray(weight)
    h = np.ascontiguousarray(moment, np.float32)
    codes = grid.codes(array) if start is None else np.asarray(start, np.float32)

    def solve(w: Array, q: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        part = _Columns(w, q, scale, zero, h, grid)
        for sweep in range(sweeps):
            moved = part.sweep()
            if refit and sweep < sweeps - 1:
                part.refit()
            elif not moved:
                break
        return part.codes.T, part.scale.T.astype(np.float64)

    found, scale = over_rows(solve, array, codes, grid.scale, grid.zero, threads=threads)
    return found.astype(np.float64), replace(grid, scale=scale) if refit else grid


class _Columns:
    """Some rows of a weight on their way: codes, gradient [K, R], scale and zero [G, R].

    In the precision of `h`.
    """

    def __init__(
        self, w: Array, codes: Array, scale: Array, zero: Array, h: Array, grid: Grid
    ) -> None:
        kind = h.dtype
        self.codes = np.array(codes.T, kind, order="C")
        self.scale = np.array(scale.T, kind, order="C")
        self.zero = np.array(zero.T, kind, order="C")
        self._h, self._top, self._group = h, kind.type(grid.top), grid.group
        self._diagonal = np.maximum(np.diagonal(h), np.finfo(kind).tiny)
        change = np.array(w.T, kind, order="C")
        for at, place in self._groups():
            change[place] -= self.scale[at] * (self.codes[place] - self.zero[at])
        self._gradient = h @ change

    def _groups(self) -> list[tuple[int, slice]]:
        return [
            (at, slice(at * self._group, (at + 1) * self._group)) for at in range(len(self.scale))
        ]

    def sweep(self) -> bool:
        """One pass over the columns; whether any code changed."""
        columns, rows = self.codes.shape
        moved = False
        changes = np.empty((_BLOCK, rows), self.codes.dtype)
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            g = self._gradient[start:stop].copy()
            any_moved = False
            for at, k in enumerate(range(start, stop)):
                changes[at] = self._step(k, g[at])
                if changes[at].any():
                    any_moved = True
                    g[at + 1 :] -= self._h[k, k + 1 : stop, None] * changes[at]
            if any_moved:
                moved = True
                self._gradient -= self._h[:, start:stop] @ changes[: stop - start]
        return moved

    def _step(self, k: int, g: Array) -> Array:
        """Move one column; gives by how much its numbers changed."""
        scale, q, curvature = self.scale[k // self._group], self.codes[k], self._diagonal[k]
        # rows of almost nothing have products below what single precision holds
        new = g / np.maximum(scale * curvature, np.finfo(g.dtype).tiny)
        new += q
        np.rint(new, out=new)
        np.clip(new, 0, self._top, out=new)
        new -= q
        step: Array = scale * new
        # only where the loss falls by more than rounding: what is equal stays
        better = step * (2 * g - step * curvature) > 0
        step *= better
        new *= better
        q += new
        return step

    def refit(self) -> None:
        """The scales of least loss for codes as they are, one group after the other.

            d = q - zero      scale += dT g / dT H d

        Scales that would change sign or vanish stay.
        """
        for at, place in self._groups():
            d = self.codes[place] - self.zero[at]
            along = self._h[:, place] @ d
            curvature = np.einsum("kr,kr->r", along[place], d)
            slope = np.einsum("kr,kr->r", self._gradient[place], d)
            step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
            step = np.where(self.scale[at] + step > 0.1 * self.scale[at], step, step.dtype.type(0))
            self.scale[at] += step
            along *= step
            self._gradient -= along


def refitted(weight: Array, moment: Array, grid: Grid, codes: Array) -> Grid:
    """The scales of least loss for codes as they are; see `_Columns.refit`."""
    h = np.ascontiguousarray(moment, np.float64)
    part = _Columns(np.asarray(weight), codes, grid.scale, grid.zero, h, grid)
    part.refit()
    return replace(grid, scale=part.scale.T.astype(np.float64))


def descend_each(
    weight: Array, moments: Array, rows: int, grid: Grid, codes: Array, sweeps: int = 4
) -> Array:
    """Codes of many small groups at once, `rows` rows and a moment [K, K] each: depthwise kernels.

    `weight`: [groups * rows, K]; `moments`: [groups, K, K], damped.
    """
    w, q = np.asarray(weight, np.float64), np.array(codes, np.float64)
    scale, zero = grid.spread(grid.scale), grid.spread(grid.zero)
    own = np.repeat(np.arange(len(moments)), rows)
    gradient = np.einsum("rk,rkj->rj", w - scale * (q - zero), moments[own])
    for _ in range(sweeps):
        moved = False
        for k in range(w.shape[1]):
            curvature = np.maximum(moments[own, k, k], np.finfo(np.float32).tiny)
            aim = q[:, k] + gradient[:, k] / curvature / scale[:, k]
            new = np.clip(np.round(aim), 0, grid.top)
            step = scale[:, k] * (new - q[:, k])
            gain = step * (2 * gradient[:, k] - step * curvature)
            step = np.where(gain > 0, step, 0.0)
            q[:, k] = np.where(step != 0, new, q[:, k])
            gradient -= step[:, None] * moments[own, k]
            moved = moved or bool(step.any())
        if not moved:
            break
    return q
