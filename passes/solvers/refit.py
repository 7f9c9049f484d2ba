"""Masked least squares: the weights that stay make up for those that go.

    minimise J(V) over V with V = V * mask       (V - W) H = 0 where the mask is kept

By conjugate gradients with a Jacobi preconditioner, all rows at once: each row has a mask of its
own, and no matrix is factored. What is sought is the change from W * mask, in single precision; the
loss falls with each step. Source: conjugate gradients, Hestenes & Stiefel 1952.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.loss import normalised
from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]


def masked_least_squares(
    weight: Array,
    moment: Array,
    mask: Array,
    iterations: int = 60,
    tolerance: float = 1e-3,
    threads: int | None = None,
) -> Array:
    """V, float64, of the shape of the weight, zero outside of the mask.

    `weight`, `mask`: [R, K] or [G, R, K]; `moment`: [K, K] or [G, K, K], damped. `tolerance`: of
    the gradient's norm, relative to where it began.
    """
    array, kept = np.asarray(weight, np.float64), np.asarray(mask, bool)
    h = normalised(moment)

    def solve(h: Array, w: Array, kept: Array) -> tuple[Array, ...]:
        start = np.where(kept, w, 0.0)
        gone = (w - start).astype(np.float32)
        return (start + _change(h, gone, kept.astype(np.float32), iterations, tolerance),)

    (found,) = over_rows(solve, h, array, kept, threads=threads)
    return found


def _change(h: Array, gone: Array, kept: Array, iterations: int, tolerance: float) -> Array:
    """What to add, [B, R, K], where `kept` is 1, so that it makes up for `gone`."""
    scaling = 1 / np.maximum(np.diagonal(h, axis1=1, axis2=2), np.finfo(np.float32).tiny)[:, None]
    residual = (gone @ h) * kept
    found = np.zeros_like(residual)
    direction = residual * scaling
    energy = _inner(residual, direction)
    enough = tolerance**2 * energy
    for _ in range(iterations):
        along = direction @ h
        along *= kept
        curvature = _inner(direction, along)
        active = (energy > enough) & (curvature > 0)
        if not active.any():
            break
        # exact along each direction: the loss falls with each step
        step = np.where(active, energy / np.where(active, curvature, 1), 0).astype(np.float32)
        found += step[..., None] * direction
        residual -= step[..., None] * along
        ready = residual * scaling
        after = _inner(residual, ready)
        turn = np.where(active, after / np.where(active, energy, 1), 0).astype(np.float32)
        direction = ready + turn[..., None] * direction
        energy = np.where(active, after, energy)
    return found


def _inner(one: Array, other: Array) -> Array:
    return np.asarray((one * other).sum(-1, dtype=np.float64))
