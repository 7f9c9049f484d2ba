"""Low rank: W ~ A B, with A [R, r] and B [r, K].

    W H WT = U S UT       A = U_r,  B = U_rT W               R <= K
    H = L LT,  LT WT W L = V S VT     A = W L V_r,  B = V_rT L^-1     R > K

Either is the SVD of W L, whitened by the inputs, and so the least J of all products of that rank:
J is the sum of the dropped S (DRONE 2021; SVD-LLM, 2403.07378). The eigenvectors of the smaller
side cost a fraction of the SVD, and the first needs no inverse.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.parallel import one_thread

Array = npt.NDArray[Any]


def whitened_svd(weight: Array, moment: Array, rank: int) -> tuple[Array, Array]:
    """A [R, r], B [r, K] of least loss, float64. `moment`: [K, K], damped; [K] for its diagonal."""
    from scipy.linalg import cholesky, eigh, solve_triangular

    array = np.asarray(weight, np.float64)
    rows, columns = array.shape
    rank = min(rank, rows, columns)
    with one_thread():
        if rank == 0:
            return np.zeros((rows, 0)), np.zeros((0, columns))
        if rows <= columns:
            gram = _times(array, moment) @ array.T
            u = eigh(gram, subset_by_index=(rows - rank, rows - 1))[1][:, ::-1]
            return u, u.T @ array
        low = cholesky(_full(moment), lower=True)
        whole = array @ low
        v = eigh(whole.T @ whole, subset_by_index=(columns - rank, columns - 1))[1][:, ::-1]
        return whole @ v, solve_triangular(low, v, trans=1, lower=True).T


def spectrum(weight: Array, moment: Array) -> Array:
    """The squared singular values of W L, falling: what each further rank takes off the loss."""
    from scipy.linalg import cholesky, eigvalsh

    array = np.asarray(weight, np.float64)
    with one_thread():
        if array.shape[0] <= array.shape[1]:
            gram = _times(array, moment) @ array.T
        else:
            whole = array @ cholesky(_full(moment), lower=True)
            gram = whole.T @ whole
        return np.asarray(np.maximum(eigvalsh(gram)[::-1], 0.0))


def randomised_svd(
    weight: Array,
    rank: int,
    moment: Array | None = None,
    seed: int = 0,
    extra: int = 8,
    powers: int = 2,
) -> tuple[Array, Array]:
    """A, B near the best of that rank, for large matrices; without a moment H is 1.

    W H WT is seen through a few random columns only. Halko, Martinsson, Tropp, 0909.4061.
    """
    array = np.asarray(weight, np.float64)
    width = min(rank + extra, *array.shape)
    h = np.ones(array.shape[1]) if moment is None else moment
    with one_thread():
        sample = np.random.default_rng(seed).standard_normal((array.shape[0], width))
        for _ in range(powers + 1):
            sample = _times(array, h) @ (array.T @ sample)
            sample, _ = np.linalg.qr(sample)
        inside = sample.T @ array
        u = np.linalg.eigh(_times(inside, h) @ inside.T)[1]
        basis = sample @ u[:, ::-1][:, :rank]
    return basis, basis.T @ array


def residual_low_rank(weight: Array, coded: Array, moment: Array, rank: int) -> tuple[Array, Array]:
    """A, B with W ~ V + A B: what codes V lose, given back where outputs feel it most.

    EoRA (2410.21271), LQER (2402.02446).
    """
    change = np.asarray(weight, np.float64) - np.asarray(coded, np.float64)
    return whitened_svd(change, moment, rank)


def _times(array: Array, moment: Array) -> Array:
    h = np.asarray(moment, np.float64)
    return array * h if h.ndim == 1 else array @ h


def _full(moment: Array) -> Array:
    h = np.asarray(moment, np.float64)
    return np.diag(h) if h.ndim == 1 else h
