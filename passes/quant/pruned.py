"""Weights that were pruned before: their zeros stay, and codes are chosen for the rest.

W = W * mask       V = V * mask       |W' x - V x|^2 least, over codes where the mask is 1
"""

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.passes.solvers.refit import masked_least_squares

_MEANT = 0.2  # share of zeros from which they were meant


def mask_of(matrix: Array) -> Array | None:
    """True where a pruned weight is not zero; None for one that was not pruned."""
    kept = np.asarray(matrix != 0)
    return kept if kept.size and 1 - kept.mean() >= _MEANT else None


def on_mask(aim: Array, damped: Array, kept: Array) -> Array:
    """What comes nearest to `aim` [G, R, K] without weights outside of the mask."""
    if not (aim[~kept] != 0).any():
        return aim
    return masked_least_squares(aim, damped, kept)
