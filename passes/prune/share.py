"""Shares: how much of each layer goes, where one threshold holds for the whole model.

    share_l(t) = part of the scores of layer l below t        sum share_l(t) size_l = share * size

Scores of data are losses over what the layer gives, so that layers can be compared; sizes are
taken as they are. No layer loses more than all but a part of what it would keep.
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from onnx_compress.ir.graph.elements import Array

_POINTS = 512  # of the distribution of the scores of a layer
_KEPT = 0.1  # of the share that layers keep on the average, every layer keeps
_ROUNDS = 60

K = TypeVar("K", bound=Hashable)


def curve(scores: Array) -> Array:
    """Quantiles of the scores of a layer; all that is needed of them later."""
    flat = np.sort(scores, axis=None)
    return np.asarray(flat[np.linspace(0, flat.size - 1, _POINTS).astype(np.int64)])


def shares(curves: Mapping[K, Array], sizes: Mapping[K, int], share: float) -> dict[K, float]:
    """Of each layer, so that `share` of all goes."""
    if not curves:
        return {}
    most = 1 - _KEPT * (1 - share)
    total = sum(sizes[key] for key in curves)

    def below(at: float) -> dict[K, float]:
        return {
            key: min(float(np.searchsorted(points, at, "left")) / len(points), most)
            for key, points in curves.items()
        }

    every = np.concatenate(list(curves.values()))
    every = np.sort(every[np.isfinite(every)])
    low, high = 0, len(every) - 1
    for _ in range(_ROUNDS):
        if low >= high:
            break
        middle = (low + high) // 2
        found = below(float(every[middle]))
        if sum(found[key] * sizes[key] for key in found) < share * total:
            low = middle + 1
        else:
            high = middle
    found = below(float(every[low])) if len(every) else below(0.0)
    # steps of the curves leave a little over
    reached = sum(found[key] * sizes[key] for key in found) / total
    scale = share / reached if reached else 0.0
    return {key: min(part * scale, most) for key, part in found.items()}
