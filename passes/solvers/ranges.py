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
    n, x = np.asarray(counts, np.float64), np.asarray(middles, np.float64)
    if symmetric:
        top = max(-low, high)
        share = _best(lambda c: _cost(n, x, -c * top, c * top, bits))
        return -share * top, share * top
    best = low, high
    for _ in range(2):
        share = _best(lambda c, now=best: _cost(n, x, now[0], c * high, bits))
        best = best[0], share * high
        share = _best(lambda c, now=best: _cost(n, x, c * low, now[1], bits))
        best = share * low, best[1]
    return best


def _best(cost: Any) -> float:
    """The share of least cost; of equals the largest."""
    return float(_SHARES[int(np.argmin([cost(share) for share in _SHARES]))])


def _cost(n: Array, x: Array, low: float, high: float, bits: int) -> float:
    step = (high - low) / ((1 << bits) - 1)
    outside = x - np.clip(x, low, high)
    inside = (x >= low) & (x <= high)
    return float((n * outside**2).sum() + (n * inside).sum() * step**2 / 12)
