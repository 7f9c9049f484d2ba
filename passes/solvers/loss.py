"""The loss of a changed weight, and moments fit to be inverted."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def loss(weight: Array, other: Array, moment: Array) -> float:
    """J = tr((W - V) H (W - V)T), in float64, summed over groups.

    `weight`, `other`: [R, K] or [G, R, K]; `moment`: [K, K] or [G, K, K].
    """
    change = np.asarray(weight, np.float64) - np.asarray(other, np.float64)
    return float(((change @ np.asarray(moment, np.float64)) * change).sum())


def relative_loss(weight: Array, other: Array, moment: Array) -> float:
    """J over the size of the outputs, tr(W H WT): the relative squared error of y."""
    zero = np.zeros_like(np.asarray(weight))
    return loss(weight, other, moment) / max(loss(weight, zero, moment), 1e-300)


def damped(moment: Array, share: float = 0.01) -> Array:
    """H + share * mean(diag H) * I, float64; inputs that are always zero get the mean itself.

    `moment`: [K, K] or [G, K, K], each with a mean of its own.

    Without it H has no inverse where there are fewer samples than columns, or dead inputs.
    """
    out = np.array(moment, np.float64)
    diagonal = np.diagonal(out, axis1=-2, axis2=-1).copy()
    if not diagonal.size:
        return out
    mean = diagonal.mean(-1, keepdims=True)
    mean = np.where(mean > 0, mean, 1.0)
    places = np.arange(out.shape[-1])
    out[..., places, places] = np.where(diagonal > 0, diagonal + share * mean, mean)
    return out


def shrunk(moment: Array, trust: float) -> Array:
    """trust * H + (1 - trust) * diag(H): correlations believed in part. [..., K, K], float64.

    Data to fit on are few, and never quite those to come: the loss on other data is less with a
    little of it (docs/solvers.md). Ledoit & Wolf 2004 shrink a covariance like this.
    """
    h = np.asarray(moment, np.float64)
    diagonal = np.diagonal(h, axis1=-2, axis2=-1)
    out = trust * h
    places = np.arange(h.shape[-1])
    out[..., places, places] = diagonal
    return out


def normalised(moment: Array) -> Array:
    """H over its largest diagonal element, in single precision: no solution hangs on its size."""
    h = np.asarray(moment, np.float64)
    if not h.size:
        return h.astype(np.float32)
    largest = np.diagonal(h, axis1=-2, axis2=-1).max(-1)[..., None, None]
    return np.asarray(h / np.where(largest > 0, largest, 1.0), np.float32)
