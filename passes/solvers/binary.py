"""One-bit bases:  W ~ sum_i a_i B_i, B_i of -1 and +1, a_i one number for each row and group.

residual_bases   B_i = sign of what is left, then all a of a group are fitted together
                 (a = (BT D B)^-1 BT D w), and the signs again to the new a, in turn
descend_bases    the same against the loss J: coordinate descent over the sums of signs, each
                 column making up for the others
ternary          v = a * t, t of -1, 0, +1, zero where |w| <= 0.7 mean |w|, a the mean of the rest

D = 1, or diag(H). No loss rises from turn to turn. Sources: XNOR-Net (1603.05279), ABC-Net
(1711.11294), ARB-LLM (2410.03129), ternary networks (1605.04711).
"""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.descent import sweep, turned
from onnx_compress.passes.solvers.grid import Grid, counted, group_size, groups
from onnx_compress.passes.solvers.levels import Bases
from onnx_compress.passes.solvers.loss import normalised
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]


def residual_bases(
    weight: Array,
    count: int,
    group: int = 0,
    importance: Array | None = None,
    turns: int = 10,
    threads: int | None = None,
) -> tuple[Array, Array]:
    """Signs [count, R, K] of int8 and scales [count, R, G] with the least weighted error found.

    `weight`: [R, K] or [G, R, K]; `importance`: [K] or [G, K], such as diag(H).
    """
    array = np.asarray(weight, np.float64)
    size = group_size(group, array.shape[-1])
    d = counted(importance, array.shape, size)

    def solve(d: Array, w: Array) -> tuple[Array, ...]:
        parts = groups(w, size)
        signs, scales = _alternated(parts, d[:, None], count, turns)
        flat = signs.reshape(*w.shape[:2], parts.shape[2] * size, count)[:, :, : w.shape[2]]
        return flat.astype(np.int8), scales

    signs, scales = over_rows(solve, d, array, threads=threads)
    return np.moveaxis(signs, -1, 0), np.moveaxis(scales, -1, 0)


def descend_bases(
    weight: Array,
    moment: Array,
    signs: Array,
    scales: Array,
    group: int = 0,
    sweeps: int = 4,
    threads: int | None = None,
) -> tuple[Array, Array]:
    """Signs and scales of a smaller loss than those given, as `residual_bases` gives them.

    `moment`: [K, K] or [G, K, K], damped.
    """
    array, h = np.asarray(weight, np.float32), normalised(moment)
    size = group_size(group, array.shape[-1])

    def solve(h: Array, w: Array, signs: Array, scales: Array) -> tuple[Array, ...]:
        levels = Bases(np.stack([turned(one) for one in np.moveaxis(scales, -1, 0)]), size)
        value = levels.value(np.stack([turned(one) for one in np.moveaxis(signs, -1, 0)]))
        sweep(turned(w), value, h, levels, sweeps, refit=True)
        found = np.stack([turned(one) for one in levels.signs(value)], axis=-1)
        fitted = np.stack([turned(one) for one in levels.scale], axis=-1)
        return found.astype(np.int8), fitted.astype(np.float64)

    last = (np.moveaxis(given, 0, -1) for given in (signs, scales))
    found, fitted = over_rows(solve, h, array, *last, threads=threads)
    return np.moveaxis(found, -1, 0), np.moveaxis(fitted, -1, 0)


def decode_bases(signs: Array, scales: Array, group: int = 0) -> Array:
    """The numbers [..., R, K] of bases."""
    columns = signs.shape[-1]
    wide = np.repeat(scales, group_size(group, columns), axis=-1)[..., :columns]
    return np.asarray((wide * signs).sum(0))


def sign_grid(weight: Array, group: int = 0, importance: Array | None = None) -> Grid:
    """One base as a grid:  +-a = 2a (q - 1/2), q = 0 or 1, a = sum d |w| / sum d."""
    scale = _mean_size(weight, group, importance)
    size, columns = group_size(group, weight.shape[-1]), weight.shape[-1]
    return Grid(np.where(scale > 0, 2 * scale, 1.0), np.full_like(scale, 0.5), 1, size, columns)


def ternary_grid(weight: Array, group: int = 0, importance: Array | None = None) -> Grid:
    """Three levels as a grid:  a (q - 1), q = 0, 1 or 2, with a as `ternary` has it.

    Its own nearest codes are others than those of `ternary`: zero reaches to a / 2.
    """
    scale = ternary(weight, group, importance)[1]
    size, columns = group_size(group, weight.shape[-1]), weight.shape[-1]
    scale = np.where(scale > 0, scale, 1.0)
    return Grid(scale, np.ones_like(scale), 2, size, columns, levels=3)


def ternary(weight: Array, group: int = 0, importance: Array | None = None) -> tuple[Array, Array]:
    """Codes [..., R, K] of -1, 0, +1 as int8, and scales [..., R, G]."""
    array = np.asarray(weight, np.float64)
    size = group_size(group, array.shape[-1])
    parts, d = groups(array, size), counted(importance, array.shape, size)[..., None, :, :]
    mean = _mean_size(array, group, importance)
    codes = np.where(np.abs(parts) > 0.7 * mean[..., None], np.sign(parts), 0.0)
    scale = (d * codes * parts).sum(-1) / np.maximum((d * codes**2).sum(-1), 1e-300)
    flat = codes.reshape(*array.shape[:-1], parts.shape[-2] * size)[..., : array.shape[-1]]
    return flat.astype(np.int8), scale


def _mean_size(weight: Array, group: int, importance: Array | None) -> Array:
    array = np.asarray(weight, np.float64)
    size = group_size(group, array.shape[-1])
    d = counted(importance, array.shape, size)[..., None, :, :]
    return np.asarray((d * np.abs(groups(array, size))).sum(-1) / np.maximum(d.sum(-1), 1e-300))


def _alternated(parts: Array, d: Array, count: int, turns: int) -> tuple[Array, Array]:
    """Signs [B, R, G, n, count] and scales [B, R, G, count] for numbers [B, R, G, n]."""
    signs = np.empty((*parts.shape, count))
    left = parts.copy()
    for at in range(count):
        signs[..., at] = np.where(left < 0, -1.0, 1.0)
        scale = (d * np.abs(left)).sum(-1) / np.maximum(d.sum(-1), 1e-300)
        left -= scale[..., None] * signs[..., at]
    scales = _fitted(parts, signs, d)
    for _ in range(turns):
        better = _nearest(parts, scales)
        if np.array_equal(better, signs):
            break
        signs, scales = better, _fitted(parts, better, d)
    return signs, scales


def _fitted(parts: Array, signs: Array, d: Array) -> Array:
    """All scales of a group together, by weighted least squares."""
    weighted = signs * d[..., None]
    gram = np.swapaxes(weighted, -1, -2) @ signs
    right = np.swapaxes(weighted, -1, -2) @ parts[..., None]
    # equal bases make it singular: the least solution then
    found = np.linalg.pinv(gram, hermitian=True) @ right
    return np.asarray(found[..., 0])


def _nearest(parts: Array, scales: Array) -> Array:
    """For each number the signs whose sum is nearest to it, [..., n, count]."""
    choices = np.array(list(product((1.0, -1.0), repeat=scales.shape[-1])))
    best, least = np.zeros(parts.shape, np.intp), np.full(parts.shape, np.inf)
    for at, choice in enumerate(choices):
        distance = np.abs(parts - (scales @ choice)[..., None])
        better = distance < least
        best[better], least = at, np.minimum(distance, least)
    return np.asarray(choices[best])
