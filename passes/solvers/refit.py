"""Masked least squares: the weights that stay make up for those that go.

    minimise J(V) over V with V = V * mask       (V - W) H = 0 where the mask is kept

By conjugate gradients with a Jacobi preconditioner, all rows at once: each row has a mask of its
own, and no matrix is factored. Starts from W * mask and never ends with a larger loss.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.parallel import over_rows

Array = npt.NDArray[Any]


def masked_least_squares(
    weight: Array,
    moment: Array,
    mask: Array,
    iterations: int = 60,
    tolerance: float = 1e-4,
    threads: int | None = None,
) -> Array:
    """V [R, K], float64, zero outside of the mask. `moment`: [K, K], damped.

    `tolerance`: of the gradient, relative to where it began.
    """
    h = np.asarray(moment, np.float64)
    scaling = 1.0 / np.maximum(np.diagonal(h), 1e-300)

    def solve(w: Array, kept: Array) -> tuple[Array, ...]:
        v = w * kept
        residual = ((w - v) @ h) * kept
        ready = residual * scaling
        direction = ready.copy()
        energy = np.einsum("rk,rk->r", residual, ready)
        enough = tolerance**2 * energy
        for _ in range(iterations):
            along = (direction @ h) * kept
            curvature = np.einsum("rk,rk->r", direction, along)
            active = (energy > enough) & (curvature > 0)
            if not active.any():
                break
            step = np.where(active, energy / np.where(active, curvature, 1.0), 0.0)
            v += step[:, None] * direction
            residual -= step[:, None] * along
            ready = residual * scaling
            after = np.einsum("rk,rk->r", residual, ready)
            turn = np.where(active, after / np.where(active, energy, 1.0), 0.0)
            direction = ready + turn[:, None] * direction
            energy = np.where(active, after, energy)
        return (v,)

    arrays = np.asarray(weight, np.float64), np.asarray(mask, np.float64)
    (found,) = over_rows(solve, *arrays, threads=threads)
    return found
