"""One-bit bases:  W ~ sum_i a_i B_i, B_i of -1 and +1, a_i one number for each row and group.

residual_bases   B_i = sign of what is left, then all a of a group are fitted together
                 (a = (BT B)^-1 BT w, weighted by d), and the signs again to the new a, in turn
ternary          v = a * t, t of -1, 0, +1, zero where |w| <= 0.7 mean |w|, a the mean of the rest

The loss is sum of d_k (w_k - v_k)^2; d = 1, or diag(H). It never rises from turn to turn. Sources:
XNOR-Net (1603.05279), ABC-Net (1711.11294), ARB-LLM (2410.03129), ternary networks (1605.04711).
"""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.grid import groups

Array = npt.NDArray[Any]


def residual_bases(
    weight: Array, count: int, group: int = 0, importance: Array | None = None, turns: int = 10
) -> tuple[Array, Array]:
    """Signs [count, R, K] of int8 and scales [count, R, G] with the least weighted error found."""
    array = np.asarray(weight, np.float64)
    rows, columns = array.shape
    size = min(group, columns) if group > 0 else max(columns, 1)
    parts, d = groups(array, size), _weights(importance, columns, size)
    signs = np.empty((count, *parts.shape))
    left = parts.copy()
    for at in range(count):
        signs[at] = np.where(left < 0, -1.0, 1.0)
        scale = (d * np.abs(left)).sum(2) / np.maximum(d.sum(2), 1e-300)
        left -= scale[..., None] * signs[at]
    scales = _fitted(parts, signs, d)
    for _ in range(turns):
        better = _nearest(parts, scales)
        if np.array_equal(better, signs):
            break
        signs, scales = better, _fitted(parts, better, d)
    flat = signs.reshape(count, rows, -1)[:, :, :columns]
    return flat.astype(np.int8), scales


def decode_bases(signs: Array, scales: Array, group: int = 0) -> Array:
    """The numbers [R, K] of bases."""
    columns = signs.shape[2]
    size = min(group, columns) if group > 0 else max(columns, 1)
    wide = np.repeat(scales, size, axis=2)[:, :, :columns]
    return np.asarray((wide * signs).sum(0))


def ternary(weight: Array, group: int = 0, importance: Array | None = None) -> tuple[Array, Array]:
    """Codes [R, K] of -1, 0, +1 as int8, and scales [R, G]."""
    array = np.asarray(weight, np.float64)
    rows, columns = array.shape
    size = min(group, columns) if group > 0 else max(columns, 1)
    parts, d = groups(array, size), _weights(importance, columns, size)
    mean = (d * np.abs(parts)).sum(2) / np.maximum(d.sum(2), 1e-300)
    codes = np.where(np.abs(parts) > 0.7 * mean[..., None], np.sign(parts), 0.0)
    scale = (d * codes * parts).sum(2) / np.maximum((d * codes**2).sum(2), 1e-300)
    flat = codes.reshape(rows, -1)[:, :columns]
    return flat.astype(np.int8), scale


def _weights(importance: Array | None, columns: int, size: int) -> Array:
    ones = np.ones(columns) if importance is None else np.asarray(importance, np.float64)
    d = groups(np.atleast_2d(ones), size).copy()
    spare = d.shape[1] * size - columns
    if spare:
        d[:, -1, size - spare :] = 0.0  # what only fills up the last group
    return d


def _fitted(parts: Array, signs: Array, d: Array) -> Array:
    """All scales of a group together, by weighted least squares."""
    bases = np.moveaxis(signs, 0, -1)  # [R, G, size, count]
    gram = np.einsum("rgki,rgk,rgkj->rgij", bases, np.broadcast_to(d, parts.shape), bases)
    right = np.einsum("rgki,rgk->rgi", bases, d * parts)
    # equal bases make it singular: the least solution then
    found = np.einsum("rgij,rgj->rgi", np.linalg.pinv(gram, hermitian=True), right)
    return np.moveaxis(found, -1, 0)


def _nearest(parts: Array, scales: Array) -> Array:
    """For each number the signs whose sum is nearest to it."""
    count = len(scales)
    choices = np.array(list(product((1.0, -1.0), repeat=count)))  # [2^count, count]
    levels = np.einsum("ci,irg->rgc", choices, scales)
    best = np.abs(parts[..., None] - levels[:, :, None, :]).argmin(-1)
    return np.moveaxis(choices[best], -1, 0)
