"""Low rank: W ~ A B, with A [R, r] and B [r, K].

    H = L LT      SVD(W L) = U S VT      A = U_r S_r,  B = V_rT L^-1

is the least J of all products of that rank (DRONE 2021; SVD-LLM, 2403.07378): J is the sum of the
dropped squared singular values.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def whitened_svd(weight: Array, moment: Array, rank: int) -> tuple[Array, Array]:
    """A, B of least loss. `moment`: [K, K], damped, positive definite."""
    from scipy.linalg import cholesky, solve_triangular
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        low = cholesky(np.asarray(moment, np.float64), lower=True)
        u, s, v = np.linalg.svd(np.asarray(weight, np.float64) @ low, full_matrices=False)
        first = u[:, :rank] * s[:rank]
        second = solve_triangular(low, v[:rank].T, trans=1, lower=True).T
    return first, second


def spectrum(weight: Array, moment: Array) -> Array:
    """The squared singular values of W L, falling: what each further rank takes off the loss."""
    from scipy.linalg import cholesky
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        low = cholesky(np.asarray(moment, np.float64), lower=True)
        values: Array = np.linalg.svd(np.asarray(weight, np.float64) @ low, compute_uv=False)
    return values**2


def randomised_svd(
    weight: Array, rank: int, seed: int = 0, extra: int = 8, powers: int = 2
) -> tuple[Array, Array]:
    """A, B near the best of that rank without a moment, for large matrices.

    Halko, Martinsson, Tropp, 0909.4061.
    """
    from threadpoolctl import threadpool_limits

    array = np.asarray(weight, np.float64)
    width = min(rank + extra, *array.shape)
    with threadpool_limits(1):
        sample = array @ np.random.default_rng(seed).standard_normal((array.shape[1], width))
        for _ in range(powers):
            basis, _ = np.linalg.qr(sample)
            sample = array @ (array.T @ basis)
        basis, _ = np.linalg.qr(sample)
        u, s, v = np.linalg.svd(basis.T @ array, full_matrices=False)
    return (basis @ u[:, :rank]) * s[:rank], v[:rank]
