"""The loss of a changed weight, and moments fit to be inverted."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def loss(weight: Array, other: Array, moment: Array) -> float:
    """J = tr((W - V) H (W - V)T), in float64. `weight`, `other`: [R, K]; `moment`: [K, K]."""
    change = np.asarray(weight, np.float64) - np.asarray(other, np.float64)
    return float(np.einsum("rk,rk->", change @ np.asarray(moment, np.float64), change))


def relative_loss(weight: Array, other: Array, moment: Array) -> float:
    """J over the size of the outputs, tr(W H WT): the relative squared error of y."""
    zero = np.zeros_like(np.asarray(weight))
    return loss(weight, other, moment) / max(loss(weight, zero, moment), 1e-300)


def damped(moment: Array, share: float = 0.01) -> Array:
    """H + share * mean(diag H) * I, float64; inputs that are always zero get the mean itself.

    Without it H has no inverse where there are fewer samples than columns, or dead inputs.
    """
    out = np.array(moment, np.float64)
    diagonal = np.diagonal(out).copy()
    mean = float(diagonal.mean()) if diagonal.size else 0.0
    mean = mean if mean > 0 else 1.0
    dead = diagonal <= 0
    out[np.diag_indices_from(out)] += share * mean
    out[dead, dead] = mean
    return out
