"""Scores of single weights, and the masks that patterns make of them.

magnitude   |w|                    unstructured   the largest of a layer, or of each row (wanda)
wanda       |w| sqrt(H_kk)         2:4, 4:8       the two (four) largest of four (eight) inputs
obs         w^2 / [H^-1]_kk        16x1           whole columns of sixteen rows, by their sum

All are [groups, rows, columns]; H = E[x xT], damped. True is kept.
"""

from collections.abc import Callable

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.passes.solvers import masks

WITH_DATA = ("wanda", "obs")
SCORES = ("magnitude", *WITH_DATA)
HALVED = {"2:4": (2, 4), "4:8": (4, 8)}
PATTERNS = ("unstructured", *HALVED, "16x1")
_TALL = 16

_SCORED: dict[str, Callable[[Array, Array], Array]] = {
    "magnitude": lambda matrix, _: masks.magnitude(matrix),
    "wanda": masks.wanda,
    "obs": masks.obs,
}


def scored(score: str, matrix: Array, moment: Array | None) -> Array:
    """What each weight counts; NaN counts most, and stays. `moment`: [G, K, K], for all but sizes.

    Raises ValueError without a moment where one is needed.
    """
    if moment is None and score in WITH_DATA:
        raise ValueError(f"{score} needs a moment")
    found = _SCORED[score](matrix, np.zeros(0) if moment is None else moment)
    return np.nan_to_num(found, nan=np.inf)


def mask_of(scores: Array, share: float, pattern: str, rows: bool) -> Array:
    """Which weights stay; the share that goes is that of the pattern, if it has one.

    `rows`: the same share of each row, unstructured.
    """
    if pattern in HALVED:
        return masks.n_of_m(scores, *HALVED[pattern])
    if pattern == "16x1":
        return np.stack([masks.blocks(group, share, _TALL, 1) for group in scores])
    if rows:
        return masks.sparse(scores, share)
    return masks.sparse(scores.reshape(1, -1), share).reshape(scores.shape)
