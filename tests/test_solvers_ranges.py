"""Ranges of least squared error: never worse than the whole range, and near the published ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.passes.solvers.ranges import least_squares_range


def error(x, low, high, bits):
    """What a grid over a range really costs."""
    step = max((high - low) / ((1 << bits) - 1), 1e-30)
    zero = np.round(-low / step)
    codes = np.clip(np.round(x / step + zero), 0, (1 << bits) - 1)
    return float((((codes - zero) * step - x) ** 2).mean())


def found(x, bits, symmetric):
    counts, edges = np.histogram(x, 4096)
    middles = (edges[1:] + edges[:-1]) / 2
    return least_squares_range(counts, middles, x.min(), x.max(), bits, symmetric)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.sampled_from([4, 8]), st.booleans(), st.floats(1, 50))
def test_never_much_worse_than_the_whole_range(seed, bits, symmetric, far):
    x = np.random.default_rng(seed).standard_normal(3000)
    x[0] *= far
    low, high = found(x, bits, symmetric)
    top = np.abs(x).max()
    whole = (-top, top) if symmetric else (min(x.min(), 0), max(x.max(), 0))
    assert whole[0] <= low <= 0 <= high <= whole[1]
    assert error(x, low, high, bits) <= 1.1 * error(x, *whole, bits)


def test_a_normal_distribution_is_clipped_where_it_is_known_to_be_best():
    """Uniform quantizers of least error for a normal distribution: Max 1960."""
    x = np.random.default_rng(0).standard_normal(200_000)
    low, high = found(x, 4, True)
    step = (high - low) / 15
    assert step == pytest.approx(0.3352, rel=0.05)


def test_one_far_number_does_not_decide():
    x = np.random.default_rng(0).standard_normal(10_000)
    x[0] = 1000.0
    _, high = found(x, 8, False)
    assert high < 1000.0 or error(x, *found(x, 8, False), 8) < error(x, x.min(), 1000.0, 8)


def test_nothing_and_zeros():
    assert least_squares_range(np.zeros(1), np.zeros(1), 0.0, 0.0) == (0.0, 0.0)
    assert least_squares_range(np.ones(1), np.ones(1), 1.0, 1.0) == (0.0, 1.0)
