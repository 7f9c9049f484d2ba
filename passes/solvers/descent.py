"""Coordinate descent over codes: the other columns make up for what one column loses.

    G = (W - V) H                                   [R, K]
    v_k <- the level nearest to v_k + g_k / H_kk,   then G -= (change of v_k) H_k:

Each step minimises J over one column with the others fixed, so J never rises. Where scales are
fitted as well, each group's own follows as soon as its columns are through, its codes d fixed:

    scale += dT g / dT H d

Columns go in blocks: within a block the gradient is kept up to date, and the rest follows in one
product of matrices. All is turned, [K, R], so that one column of all rows lies together. Single
precision; what a step gains has to be more than its rounding. Sources: COMQ (2403.07134),
QuantEase (2309.01885).
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.levels import Affine, Masked
from onnx_compress.passes.solvers.loss import normalised
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]
_BLOCK = 256  # columns after which the whole gradient follows
_STEP = 32  # columns after which that of the block does
_CHUNK = 256  # columns of the gradient that follow at a time, so that no sum leaves the cache


class Levels(Protocol):
    """What numbers the columns of a weight may take. All arrays are turned: columns, then rows."""

    group: int

    def descend(self, start: int, value: Array, gradient: Array, h: Array) -> Array:
        """Change columns of `value` [B, K, R] from `start` on, as `levels.one_by_one` does."""

    def fit(self, group: int, value: Array, gradient: Array, along: Any) -> Array:
        """Move the levels of one group to where the loss is least; the numbers that result.

        `value`, `gradient`: [B, n, R] of its columns; `along(d)`: H d within the group.
        """


def descend(
    weight: Array,
    moment: Array,
    grid: Grid,
    start: Array | None = None,
    sweeps: int = 4,
    refit: bool = False,
    threads: int | None = None,
    kept: Array | None = None,
    partner: Array | None = None,
) -> tuple[Array, Grid]:
    """Codes [R, K] with a smaller loss than the start, float32, and the grid that they are of.

    `weight`: [R, K] or [G, R, K]; `moment`: [K, K] or [G, K, K], damped. `start`: codes to begin
    with, by default the nearest. `refit`: scales are fitted to the codes, so the grid changes.
    `kept`: a mask; where it is False the number is zero and stays so. `partner`: [K], of codes of
    eight bits around their zero that are kept out of saturation. Raises ValueError for a mask and
    a grid without zero.
    """
    array, h = np.asarray(weight, np.float32), normalised(moment)
    codes = grid.codes(array) if start is None else np.asarray(start, np.float32)

    if kept is not None:
        if (grid.zero != np.round(grid.zero)).any():
            raise ValueError("a mask needs a grid that has zero")
        codes = np.where(kept, codes, grid.spread(grid.zero)).astype(np.float32)

    def solve(
        h: Array, w: Array, q: Array, scale: Array, zero: Array, *mask: Array
    ) -> tuple[Array, ...]:
        levels = Affine(turned(scale), turned(zero), grid.top, grid.group, partner)
        value = levels.value(turned(q))
        allowed: Levels = Masked(levels, turned(mask[0]) > 0) if mask else levels
        sweep(turned(w), value, h, allowed, sweeps, refit)
        return turned(levels.codes(value)), turned(levels.scale).astype(np.float64)

    rows = [array, codes, grid.scale, grid.zero]
    rows += [] if kept is None else [np.asarray(kept, np.float32)]
    found, scale = over_rows(solve, h, *rows, threads=threads)
    return found, Grid(scale, grid.zero, grid.bits, grid.group, grid.columns, grid.levels)


def refitted(
    weight: Array, moment: Array, grid: Grid, codes: Array, threads: int | None = None
) -> Grid:
    """The scales of least loss for codes as they are, one group after the other.

    Shapes as for `descend`. Scales that would change sign or vanish stay.
    """
    array, h = np.asarray(weight, np.float32), normalised(moment)

    def solve(h: Array, w: Array, q: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        levels = Affine(turned(scale), turned(zero), grid.top, grid.group)
        value = levels.value(turned(q))
        gradient = h @ (turned(w) - value)
        _fit_all(gradient, value, h, levels)
        return (turned(levels.scale).astype(np.float64),)

    codes = np.asarray(codes, np.float32)
    (scale,) = over_rows(solve, h, array, codes, grid.scale, grid.zero, threads=threads)
    return Grid(scale, grid.zero, grid.bits, grid.group, grid.columns, grid.levels)


def turned(array: Array) -> Array:
    """[B, R, K] -> [B, K, R], single precision, and back."""
    return np.ascontiguousarray(np.swapaxes(array, 1, 2), np.float32)


def sweep(weight: Array, value: Array, h: Array, levels: Levels, sweeps: int, refit: bool) -> None:
    """Change `value` and `levels` in place. weight, value: [B, K, R]; h: [B, K, K]."""
    diagonal = np.maximum(np.diagonal(h, axis1=1, axis2=2), np.finfo(np.float32).tiny)
    gradient = h @ (weight - value)
    width = _BLOCK // levels.group * levels.group
    inside = refit and width > 0
    for _ in range(sweeps):
        moved = False
        for block in _runs(0, value.shape[1], width or _BLOCK):
            before = value[:, block].copy()
            local, corner = gradient[:, block].copy(), h[:, block, block]
            for group in _runs(block.start, block.stop, levels.group if inside else _BLOCK):
                _columns(group, block.start, value, local, corner, diagonal, levels)
                if inside:
                    _fit(group, block.start, value, local, corner, levels)
            change = value[:, block] - before
            if change.any():
                moved = True
                _follow(gradient, h, block, change)
        if refit and not inside:
            _fit_all(gradient, value, h, levels)
        if not moved:
            break


def _runs(start: int, stop: int, width: int) -> Iterator[slice]:
    for at in range(start, stop, width):
        yield slice(at, min(at + width, stop))


def _columns(
    columns: slice, origin: int, value: Array, local: Array, corner: Array, d: Array, levels: Levels
) -> None:
    """Descend along some columns of a block that begins at `origin`; `local` follows."""
    for run in _runs(columns.start, columns.stop, _STEP):
        own = slice(run.start - origin, run.stop - origin)
        h = corner[:, own, own].copy()
        inside = np.arange(run.stop - run.start)
        h[:, inside, inside] = d[:, run]
        changes = levels.descend(run.start, value, local[:, own], h)
        local -= corner[:, :, own] @ changes


def _fit(
    group: slice, origin: int, value: Array, local: Array, corner: Array, levels: Levels
) -> None:
    own = slice(group.start - origin, group.stop - origin)
    inner = corner[:, own, own]
    found = levels.fit(
        group.start // levels.group, value[:, group], local[:, own], lambda d: inner @ d
    )
    local -= corner[:, :, own] @ (found - value[:, group])
    value[:, group] = found


def _fit_all(gradient: Array, value: Array, h: Array, levels: Levels) -> None:
    """The levels of all groups, one after the other, with the whole gradient kept up to date."""
    for at, group in enumerate(_runs(0, value.shape[1], levels.group)):
        inner = h[:, group, group]
        found = levels.fit(at, value[:, group], gradient[:, group], lambda d, m=inner: m @ d)
        _follow(gradient, h, group, found - value[:, group])
        value[:, group] = found


def _follow(gradient: Array, h: Array, block: slice, change: Array) -> None:
    for chunk in _runs(0, gradient.shape[1], _CHUNK):
        gradient[:, chunk] -= h[:, chunk, block] @ change
