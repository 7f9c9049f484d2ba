"""How the numbers of a packed weight are chosen, row by row.

    without data   the clipping of least squared error; signs and their scales in closed form
    with data      codes of GPTQ on that grid, and from there, or from the signs, by coordinate
                   descent on H = E[x xT], scales refitted between sweeps

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
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.gptq import gptq
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.rounding import mse_clip

_SWEEPS, _LAST = 3, 1
Plane = tuple[Array, Grid]  # codes [groups, R, K], and the grid that they are of


@dataclass(frozen=True)
class Numbers:
    """Codes [planes, R, K], scales [planes, R, B], and zero: one number or [R, B]."""

    codes: Array
    scale: Array
    zero: Array


def choose(
    matrix: Array,
    setting: Setting,
    seen: Seen | None,
    half: bool,
    block: int,
    kept: Array | None = None,
) -> Numbers:
    """For a weight [groups, R, K], all groups' rows in one; `half`: scales may be float16.

    Columns of which too many were seen to be looked at together are so in parts.

    `kept`: of a pruned weight, what is not zero; signs know no zero, and pay no heed.
    """
    kept = None if setting.bits == 1 else kept
    # where columns of several parts share a scale, all that is known is of no use
    if seen is None or any(place.start % block for place, _ in seen.moments.parts()):
        return _chosen(matrix, setting, None, half, block, kept)
    found = []
    for at, part in seen.parts:
        mask = None if kept is None else kept[..., at]
        found.append(_chosen(matrix[..., at], setting, part, half, block, mask))
    zero = found[0].zero
    return Numbers(
        np.concatenate([each.codes for each in found], axis=-1),
        np.concatenate([each.scale for each in found], axis=-1),
        zero if zero.ndim < 2 else np.concatenate([each.zero for each in found], axis=-1),
    )


def _chosen(
    matrix: Array, setting: Setting, seen: Seen | None, half: bool, block: int, kept: Array | None
) -> Numbers:
    """Of columns that are looked at together."""
    h = None if seen is None else seen.damped
    importance = None if h is None else np.diagonal(h, axis1=1, axis2=2)
    planes = _started(matrix, setting, block, importance)
    if h is not None and seen is not None:
        # a mask is kept by descent alone
        if setting.bits >= 2 and kept is None:
            planes = [(_begun(matrix, h, seen, grid, codes), grid) for codes, grid in planes]
        planes = _descended(matrix, planes, h, True, _SWEEPS, kept)
    fine = half and all(fit_half(grid.scale) for _, grid in planes)
    kind = np.dtype(np.float16 if fine else np.float32)
    planes = [(codes, _rounded(grid, kind)) for codes, grid in planes]
    if h is not None:
        planes = _descended(matrix, planes, h, False, _LAST, kept)
    elif len(planes) == 1 and setting.bits > 1:
        planes = [(grid.codes(matrix), grid) for _, grid in planes]
    zero = _flat(planes[0][1].zero)
    return Numbers(
        np.stack([_flat(codes) for codes, _ in planes]).astype(np.uint8),
        np.stack([_flat(grid.scale) for _, grid in planes]).astype(kind),
        zero.astype(np.uint8) if setting.zeros else np.asarray(zero.flat[0] if zero.size else 0.0),
    )


def _flat(array: Array) -> Array:
    """[groups, R, n] -> [groups * R, n]."""
    return array.reshape(-1, array.shape[-1])


def _rounded(grid: Grid, kind: np.dtype[Any]) -> Grid:
    return replace(grid, scale=grid.scale.astype(kind).astype(np.float64))


def _started(matrix: Array, setting: Setting, block: int, importance: Array | None) -> list[Plane]:
    """Codes and grid of each plane, without correlations. `importance`: [groups, K]."""
    columns = matrix.shape[-1]
    if setting.bits == 1:
        signs, scales = residual_bases(matrix, setting.bases, block, importance)
        return [
            ((s + 1) // 2, _grid(2 * scale, 0.5, block, columns, 2))
            for s, scale in zip(signs, scales, strict=True)
        ]
    if setting.bits < 2:
        codes, scale = ternary(matrix, block, importance)
        return [(codes + 1, _grid(scale, 1.0, block, columns, 3))]
    grid = mse_clip(matrix, int(setting.bits), block, not setting.zeros, importance)
    return [(grid.codes(matrix), grid)]


def _grid(scale: Array, zero: float, block: int, columns: int, levels: int) -> Grid:
    """Zero scales would divide nothing, and negative ones of a base mean nothing."""
    positive = np.where(scale > 0, scale, np.finfo(np.float32).tiny)
    return Grid(positive, np.full_like(positive, zero), 2, block, columns, levels)


def _begun(matrix: Array, h: Array, seen: Seen, grid: Grid, codes: Array) -> Array:
    """Codes of GPTQ, from where descent ends in a better minimum.

    Those that there are where squares of inputs are more than float32 holds.
    """
    if not np.isfinite(h).all():
        return codes
    upper = seen.inverse if grid.group < grid.columns else None
    return gptq(matrix, h, grid, upper=upper)


def _descended(
    matrix: Array, planes: list[Plane], h: Array, refit: bool, sweeps: int, kept: Array | None
) -> list[Plane]:
    """Plane by plane, each on what the others leave. `h`: [groups, K, K]."""
    out = list(planes)
    for _ in range(2 if len(out) > 1 else 1):
        for at, (codes, grid) in enumerate(out):
            rest = sum(other.decode(q) for p, (q, other) in enumerate(out) if p != at)
            out[at] = descend(matrix - rest, h, grid, codes, sweeps, refit, kept=kept)
    return out
