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
    """Centres [<= count], rising, float64, and the index of the nearest one of each value.

    `importance`: of each value, such as diag(H) at its column; of the shape of `values`.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    d = np.ones_like(flat) if importance is None else np.asarray(importance, np.float64).reshape(-1)
    mass, first, second = _binned(flat, np.maximum(d, 1e-12), bins)
    centres = _best(mass, first, second, min(count, len(mass)))
    return centres, nearest(values, centres)


def nearest(values: Array, centres: Array) -> Array:
    """Index of the nearest centre, of equals the smaller; shape as the values."""
    middles = (centres[1:] + centres[:-1]) / 2
    return np.asarray(np.searchsorted(middles, np.asarray(values), side="left"))


def _binned(flat: Array, d: Array, bins: int) -> tuple[Array, Array, Array]:
    """Different numbers, rising, or bins of them: their sums of d, d * w, and d * w^2."""
    # sorting all of a large weight is slow: some of it tells that there are too many
    many = len(np.unique(flat[: 8 * bins])) > bins
    points, place = (flat, flat) if many else np.unique(flat, return_inverse=True)
    if len(points) > bins:
        low, high = flat.min(), flat.max()
        place = np.minimum(((flat - low) / (high - low) * bins).astype(np.int64), bins - 1)
        points = np.arange(bins)
    sums = [np.bincount(place, d * flat**power, len(points)) for power in (0, 1, 2)]
    used = sums[0] > 0
    return sums[0][used], sums[1][used], sums[2][used]


def _best(weight: Array, first: Array, second: Array, count: int) -> Array:
    s0, s1, s2 = (np.concatenate(([0.0], np.cumsum(sums))) for sums in (weight, first, second))
    size = len(weight)

    def spread(start: Array, stop: Array) -> Array:
        """Squared error of the runs start..stop-1 about their means."""
        mass = s0[stop] - s0[start]
        linear = s1[stop] - s1[start]
        return np.asarray(s2[stop] - s2[start] - linear**2 / np.maximum(mass, 1e-300))

    ends = np.arange(size + 1)
    cost = spread(np.zeros_like(ends), ends)
    back = np.zeros((count, size + 1), np.int64)
    for m in range(1, count):
        cost, back[m] = _layer(cost, spread, size)
    cuts = [size]
    for m in range(count - 1, 0, -1):
        cuts.append(int(back[m, cuts[-1]]))
    pairs = [(a, b) for a, b in pairwise(sorted({0, *cuts})) if s0[b] > s0[a]]
    return np.array([(s1[b] - s1[a]) / (s0[b] - s0[a]) for a, b in pairs])


def _layer(cost: Array, spread: Any, size: int) -> tuple[Array, Array]:
    """One more cluster: least costs, and where the last run begins.

    All middles of a depth of the divide and conquer at once: their ranges lie one after the other.
    """
    found, back = np.full(size + 1, np.inf), np.zeros(size + 1, np.int64)
    found[0] = 0.0
    low, high, first, last = (np.array([at]) for at in (1, size, 0, size))
    while low.size:
        middle = (low + high) // 2
        lengths = np.minimum(last, middle - 1) - first + 1
        begins = np.cumsum(lengths) - lengths
        starts = np.arange(lengths.sum()) + np.repeat(first - begins, lengths)
        totals = cost[starts] + spread(starts, np.repeat(middle, lengths))
        least = np.minimum.reduceat(totals, begins)
        ties = np.where(totals == np.repeat(least, lengths), starts, size)
        best = np.minimum.reduceat(ties, begins)
        found[middle], back[middle] = least, best
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle - 1, high])
        first, last = np.concatenate([first, best]), np.concatenate([best, last])
        left = low <= high
        low, high, first, last = low[left], high[left], first[left], last[left]
    return found, back
