"""Whole inputs removed, and what they did taken over by the rest.

    V_A = W H_:A H_AA^-1          A: the columns that stay; the best of all weights over them
    bias += (W - V) E[x]          what the means of the inputs did

Scores of groups of columns: tr(W_g [H^-1_gg]^-1 W_gT), the loss when a group goes alone and the
others make up for it (OBS). Sources: CORP (2602.05243), SPA (2403.18955).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.parallel import one_thread

Array = npt.NDArray[Any]


def compensated(weight: Array, moment: Array, kept: Array) -> Array:
    """V [R, len(kept)], float64, of least loss over the columns `kept`. `moment`: damped [K, K]."""
    from scipy.linalg import cho_factor, cho_solve

    h = np.asarray(moment, np.float64)
    with one_thread():
        factor = cho_factor(h[np.ix_(kept, kept)], lower=True)
        right = h[kept] @ np.asarray(weight, np.float64).T
        return np.asarray(cho_solve(factor, right).T)


def bias_correction(weight: Array, other: Array, mean: Array) -> Array:
    """What to add to the bias [R] so that the mean output stays: (W - V) E[x]. `mean`: [K]."""
    change = np.asarray(weight, np.float64) - np.asarray(other, np.float64)
    return np.asarray(change @ np.asarray(mean, np.float64))


def group_scores(weight: Array, moment: Array, members: Sequence[Array]) -> Array:
    """For each group of columns how much the loss grows when it goes, float64.

    `weight`: [R, K]; `moment`: [K, K], damped. Of groups of one column: |w_k|^2 / [H^-1]_kk.
    """
    array = np.asarray(weight, np.float64)
    with one_thread():
        inverse = np.linalg.inv(np.asarray(moment, np.float64))
        if all(len(group) == 1 for group in members):
            alone = np.array([group[0] for group in members], np.intp)
            return np.asarray((array[:, alone] ** 2).sum(0) / np.diagonal(inverse)[alone])
        found = []
        for group in members:
            part = array[:, group]
            solved = np.linalg.solve(inverse[np.ix_(group, group)], part.T)
            found.append(np.einsum("rk,kr->", part, solved))
    return np.array(found)
