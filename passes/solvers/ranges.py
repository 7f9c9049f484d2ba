"""The range of numbers that costs least when it is cut into 2^bits steps.

    minimise over shares c of the whole range:   sum_i n_i (x_i - v_i)^2 + sum_i n_i s^2 / 12

x_i are the middles of the bins of a histogram, n_i how many numbers are in each, v_i what the grid
makes of x_i: outside of the range its end, inside x_i itself, with the noise s^2 / 12 of a step s.
Mean squared error, not entropy: see Nagel et al., 2106.08295, section 3.1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_SHARES = np.linspace(1.0, 0.02, 99)


def least_squares_range(
    counts: Array, middles: Array, low: float, high: float, bits: int = 8, symmetric: bool = False
) -> tuple[float, float]:
    """The ends of the range, zero among it. `low`, `high`: the smallest and the largest number.

    `symmetric`: from -t to t. Otherwise both ends are searched, the one after the other.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    cost = _Cost(counts, middles, bits)
    if symmetric:
        top = max(-low, high)
        share = _best(cost(-_SHARES * top, _SHARES * top))
        return -share * top, share * top
    best = low, high
    for _ in range(2):
        best = best[0], _best(cost(np.full_like(_SHARES, best[0]), _SHARES * high)) * high
        best = _best(cost(_SHARES * low, np.full_like(_SHARES, best[1]))) * low, best[1]
    return best


def _best(costs: Array) -> float:
    """The share of least cost; of equals the largest."""
    return float(_SHARES[int(np.argmin(costs))])


class _Cost:
    """Of many ranges at a time, from sums of n, n x and n x^2 up to each middle."""

    def __init__(self, counts: Array, middles: Array, bits: int) -> None:
        self._x, self._bits = np.asarray(middles, np.float64), bits
        n = np.asarray(counts, np.float64)
        powers = n * np.stack([np.ones_like(self._x), self._x, self._x**2])
        self._below = np.concatenate([np.zeros((3, 1)), powers.cumsum(1)], axis=1)
        # from the other end, or what is far out would be the difference of sums that are larger
        self._above = np.concatenate([powers[:, ::-1].cumsum(1)[:, ::-1], np.zeros((3, 1))], axis=1)

    def __call__(self, low: Array, high: Array) -> Array:
        first = np.searchsorted(self._x, low, "left")
        last = np.searchsorted(self._x, high, "right")
        step = (high - low) / ((1 << self._bits) - 1)
        inside = self._below[0, last] - self._below[0, first]
        outside = _squares(self._below[:, first], low) + _squares(self._above[:, last], high)
        return np.asarray(outside + inside * step**2 / 12)


def _squares(sums: Array, end: Array) -> Array:
    """sum n (x - end)^2."""
    return np.asarray(sums[2] - 2 * end * sums[1] + end**2 * sums[0])
