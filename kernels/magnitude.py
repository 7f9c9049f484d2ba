"""Magnitude pruning: the smallest weights become zero."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def magnitude_mask(array: Array, sparsity: float) -> npt.NDArray[np.bool_]:
    """True where a weight is kept: all but the `sparsity` share of smallest magnitude.

    Exactly floor(sparsity * size) are dropped; among equals the first ones.
    """
    drop = int(sparsity * array.size)
    mask = np.ones(array.size, bool)
    if drop:
        magnitude = np.abs(array).reshape(-1)
        edge = np.partition(magnitude, drop - 1)[drop - 1]
        below = magnitude < edge
        mask[below] = False
        equal = np.flatnonzero(magnitude == edge)
        mask[equal[: drop - int(below.sum())]] = False
    return mask.reshape(array.shape)
