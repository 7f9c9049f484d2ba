"""Codebooks: weighted one-dimensional k-means, exactly.

    minimise sum_i d_i (w_i - c_a(i))^2        d = 1, or diag(H) at the weight's column

On sorted numbers each cluster is a run, so dynamic programming finds the best: cost(j, m) is the
least of cost(i, m - 1) + spread of the run i..j, and the best i does not fall as j rises (divide
and conquer, O(k n log n)). Many numbers are binned first, into `bins` bins of equal width, which
keep their sums: exact for what is left. Sources: Wang & Song 2011 (Ckmeans.1d.dp), SqueezeLLM
(2306.07629).
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def codebook(
    values: Array, count: int, importance: Array | None = None, bins: int = 4096
) -> tuple[Array, Array]:
    """Centres [<= count], rising, float64, and the index of the nearest one of each value."""
    flat = np.asarray(values, np.float64).reshape(-1)
    d = np.ones_like(flat) if importance is None else np.asarray(importance, np.float64).reshape(-1)
    points, weight, total = _binned(flat, np.maximum(d, 1e-12), bins)
    centres = _best(points, weight, total, min(count, len(points)))
    return centres, nearest(values, centres)


def nearest(values: Array, centres: Array) -> Array:
    """Index of the nearest centre, of equals the smaller; shape as the values."""
    middles = (centres[1:] + centres[:-1]) / 2
    return np.asarray(np.searchsorted(middles, np.asarray(values), side="left"))


def _binned(flat: Array, d: Array, bins: int) -> tuple[Array, Array, Array]:
    """Different numbers, rising, or bins of them: their sums of d, d * w, and d * w^2."""
    points, place = np.unique(flat, return_inverse=True)
    if len(points) > bins:
        low, high = flat.min(), flat.max()
        place = np.minimum(((flat - low) / (high - low) * bins).astype(np.int64), bins - 1)
        kept, place = np.unique(place, return_inverse=True)
        points = np.arange(len(kept), dtype=np.float64)
    sums = [np.bincount(place, d * flat**power, len(points)) for power in (0, 1, 2)]
    return sums[0], sums[1], sums[2]


def _best(weight: Array, first: Array, second: Array, count: int) -> Array:
    s0, s1, s2 = (np.concatenate(([0.0], np.cumsum(sums))) for sums in (weight, first, second))
    size = len(weight)

    def spread(start: Array, stop: int) -> Array:
        """Squared error of the runs start..stop-1 about their means."""
        mass = s0[stop] - s0[start]
        linear = s1[stop] - s1[start]
        return np.asarray(s2[stop] - s2[start] - linear**2 / np.maximum(mass, 1e-300))

    cost = np.concatenate(([np.inf], [float(spread(np.array(0), j)) for j in range(1, size + 1)]))
    cost[0] = 0.0
    back = np.zeros((count, size + 1), np.int64)
    for m in range(1, count):
        cost, back[m] = _layer(cost, spread, m, size)
    ends = [size]
    for m in range(count - 1, 0, -1):
        ends.append(int(back[m, ends[-1]]))
    ends = sorted({0, *ends})
    pairs = [(a, b) for a, b in pairwise(ends) if s0[b] > s0[a]]
    return np.array([(s1[b] - s1[a]) / (s0[b] - s0[a]) for a, b in pairs])


def _layer(cost: Array, spread: Any, m: int, size: int) -> tuple[Array, Array]:
    """One more cluster: least costs, and where the last run begins."""
    found, back = np.full(size + 1, np.inf), np.zeros(size + 1, np.int64)
    found[0] = 0.0
    todo = [(1, size, 0, size)]
    while todo:
        low, high, first, last = todo.pop()
        if low > high:
            continue
        middle = (low + high) // 2
        starts = np.arange(first, min(last, middle - 1) + 1)
        totals = cost[starts] + spread(starts, middle)
        best = int(totals.argmin())
        found[middle], back[middle] = totals[best], starts[best]
        todo.append((low, middle - 1, first, int(starts[best])))
        todo.append((middle + 1, high, int(starts[best]), last))
    return found, back
