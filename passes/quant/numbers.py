"""How the numbers of a packed weight are chosen, row by row.

    without data   the clipping of least squared error; signs and their scales in closed form
    with data      from there by coordinate descent on H = E[x xT], scales refitted between sweeps

Scales are rounded to what the form keeps before codes are chosen for the last time.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights.forms import fit_half
from onnx_compress.passes.quant.data import Seen
from onnx_compress.passes.quant.setting import Setting
from onnx_compress.passes.solvers.binary import residual_bases, ternary
from onnx_compress.passes.solvers.descent import descend, descend_each
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.parallel import over_rows
from onnx_compress.passes.solvers.rounding import mse_clip

_SWEEPS, _LAST = 3, 1
_FEW_COLUMNS, _FEW_ROWS = 64, 8  # of a group, below which groups are solved all at once


@dataclass(frozen=True)
class Numbers:
    """Codes [planes, R, K], scales [planes, R, B], and zero: one number or [R, B]."""

    codes: Array
    scale: Array
    zero: Array


def choose(matrix: Array, setting: Setting, seen: Seen | None, half: bool, block: int) -> Numbers:
    """For a weight [groups, R, K], all groups' rows in one; `half`: scales may be float16."""
    groups, rows, columns = matrix.shape
    flat = matrix.reshape(groups * rows, columns)
    planes = _started(flat, setting, block, _importance(seen, rows))
    if seen is not None:
        planes = _descended(flat, planes, seen.damped, refit=True, sweeps=_SWEEPS)
    grids = [grid for _, grid in planes]
    kind = np.dtype(np.float16 if half and all(fit_half(g.scale) for g in grids) else np.float32)
    kept = [(codes, _rounded(grid, kind)) for codes, grid in planes]
    if seen is not None:
        kept = _descended(flat, kept, seen.damped, refit=False, sweeps=_LAST)
    elif len(kept) == 1 and setting.bits > 1:
        kept = [(_nearest(flat, grid), grid) for _, grid in kept]
    zero = kept[0][1].zero
    return Numbers(
        np.stack([codes for codes, _ in kept]).astype(np.uint8),
        np.stack([grid.scale for _, grid in kept]).astype(kind),
        zero.astype(np.uint8) if setting.zeros else np.asarray(zero.flat[0] if zero.size else 0.0),
    )


def _nearest(flat: Array, grid: Grid) -> Array:
    def solve(part: Array, scale: Array, zero: Array) -> tuple[Array, ...]:
        return (replace(grid, scale=scale, zero=zero).codes(part).astype(np.uint8),)

    return over_rows(solve, flat, grid.scale, grid.zero)[0]


def _rounded(grid: Grid, kind: np.dtype[Any]) -> Grid:
    return replace(grid, scale=grid.scale.astype(kind).astype(np.float64))


def _importance(seen: Seen | None, rows: int) -> Array | None:
    """diag(H) for each row: [1 or R, K]."""
    if seen is None:
        return None
    found = np.stack([np.diagonal(h) for h in seen.damped])
    return found if len(found) == 1 else np.repeat(found, rows, axis=0)


def _started(
    flat: Array, setting: Setting, block: int, importance: Array | None
) -> list[tuple[Array, Grid]]:
    """Codes and grid of each plane, without correlations."""
    columns = flat.shape[1]
    weights = np.ones((1, columns)) if importance is None else importance
    weights = np.broadcast_to(weights, flat.shape) if len(weights) > 1 else weights

    def solve(part: Array, *own: Array) -> tuple[Array, ...]:
        d = own[0] if own else weights[0]
        if setting.bits == 1:
            signs, scale = residual_bases(part, setting.bases, block, d)
            codes = ((signs + 1) // 2).astype(np.uint8)
            return np.moveaxis(codes, 0, 1), np.moveaxis(2 * scale, 0, 1)
        if setting.bits < 2:
            codes, scale = ternary(part, block, d)
            return (codes[:, None] + 1).astype(np.uint8), scale[:, None]
        grid = mse_clip(part, int(setting.bits), block, not setting.zeros, d)
        codes = grid.codes(part)[:, None].astype(np.uint8)
        return codes, grid.scale[:, None], grid.zero[:, None]

    own = (weights,) if len(weights) > 1 else ()
    codes, scale, *zeros = over_rows(solve, flat, *own)
    middle = 0.5 if setting.bits == 1 else 1.0
    found = []
    for at in range(codes.shape[1]):
        zero = zeros[0][:, at] if zeros else np.full(scale[:, at].shape, middle)
        grid = Grid(_positive(scale[:, at]), zero, setting.bits, block, columns)
        found.append((codes[:, at], grid))
    return found


def _positive(scale: Array) -> Array:
    """A negative scale of a base is turned; zero scales would divide nothing."""
    return np.where(scale > 0, scale, np.finfo(np.float32).tiny)


def _descended(
    flat: Array, planes: list[tuple[Array, Grid]], damped: list[Array], refit: bool, sweeps: int
) -> list[tuple[Array, Grid]]:
    """Plane by plane, each on what the others leave."""
    out = list(planes)
    for _ in range(2 if len(out) > 1 else 1):
        for at, (codes, grid) in enumerate(out):
            rest = sum(other.decode(q) for p, (q, other) in enumerate(out) if p != at)
            out[at] = solved(flat - rest, codes, grid, damped, refit, sweeps)
    return out


def solved(
    target: Array, codes: Array, grid: Grid, damped: list[Array], refit: bool, sweeps: int
) -> tuple[Array, Grid]:
    """Codes [groups * rows, K] by coordinate descent; `damped`: H of each group."""
    groups = len(damped)
    rows, columns = len(target) // groups, target.shape[1]
    if groups > 1 and columns <= _FEW_COLUMNS and rows < _FEW_ROWS:
        return descend_each(target, np.stack(damped), rows, grid, codes, sweeps), grid
    found, scales = [], []
    for group, h in enumerate(damped):
        place = slice(group * rows, (group + 1) * rows)
        q, part = descend(target[place], h, grid.rows(place), codes[place], sweeps, refit)
        found.append(q)
        scales.append(part.scale)
    return np.concatenate(found), replace(grid, scale=np.concatenate(scales))
