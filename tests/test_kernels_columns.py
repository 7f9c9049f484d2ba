"""Columns rounded one after the other: the compiled loops and plain numpy give the same bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.passes.solvers import levels
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.gptq import gptq
from onnx_compress.passes.solvers.levels import Affine, Masked
from onnx_compress.passes.solvers.rounding import min_max

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))
SEEDS = st.integers(0, 2**32 - 1)


def problem(shape, seed):
    """A weight [G, R, K], and second moments [G, K, K] that can be inverted."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(np.float32)
    x = rng.standard_normal((shape[0], 3 * shape[2] + 2, shape[2]))
    moment = x.transpose(0, 2, 1) @ x / x.shape[1] + 0.01 * np.eye(shape[2])
    return weight, moment


def both(call):
    """What is given in numpy, and compiled."""
    found = []
    for compiled in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(levels, "worth", lambda numbers, it=compiled: it)
            found.append(call())
    return found


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(2, 8), st.integers(0, 20), st.booleans(), SEEDS)
def test_descent_is_the_same_compiled(shape, bits, group, masked, seed):
    weight, moment = problem(shape, seed)
    grid = min_max(weight, bits, group)
    kept = np.random.default_rng(seed).random(shape) < 0.6 if masked else None
    one, other = both(lambda: descend(weight, moment, grid, refit=True, kept=kept))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1].scale, other[1].scale)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.booleans(), SEEDS)
def test_descent_in_pairs_is_the_same_compiled(shape, masked, seed):
    weight, moment = problem(shape, seed)
    weight = np.abs(weight)  # neighbours of one sign, which are what is kept in
    grid = min_max(weight, 8, 0, symmetric=True)
    kept = np.random.default_rng(seed).random(shape) < 0.6 if masked else None
    partner = np.arange(shape[2]) ^ 1
    partner[partner >= shape[2]] = -1
    one, other = both(lambda: descend(weight, moment, grid, kept=kept, partner=partner)[0])
    assert np.array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(2, 8), st.integers(0, 20), SEEDS)
def test_gptq_is_the_same_compiled(shape, bits, group, seed):
    weight, moment = problem(shape, seed)
    grid = min_max(weight, bits, group)
    one, other = both(lambda: gptq(weight, moment, grid))
    assert np.array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(st.booleans(), SEEDS)
def test_one_run_of_columns_never_adds_to_the_loss(masked, seed):
    weight, moment = problem((1, 12, 16), seed)
    h = moment.astype(np.float32)
    aim = np.ascontiguousarray(weight.transpose(0, 2, 1))
    scale = np.full((1, 2, 12), 0.2, np.float32)  # two groups in one run of columns
    plain = Affine(scale, np.full_like(scale, 8), 15, 8)
    kept = np.random.default_rng(seed).random(aim.shape) < 0.5
    chosen = Masked(plain, kept) if masked else plain
    value = np.zeros_like(aim)
    before = loss(aim, value, h)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "worth", lambda numbers: True)
        changes = chosen.descend(0, value, h @ aim, h)
    assert np.array_equal(changes, value)
    assert loss(aim, value, h) <= before * (1 + 1e-5)
    if masked:
        assert not value[~kept].any()


def loss(aim, value, h):
    off = (aim - value).astype(np.float64)
    return float((off * (h.astype(np.float64) @ off)).sum())


def test_pairs_that_are_kept_out_of_saturation_may_have_a_mask():
    weight, moment = problem((1, 6, 8), 3)
    grid = min_max(weight, 8, 0, symmetric=True)
    kept = np.random.default_rng(3).random(weight.shape) < 0.5
    partner = np.array([1, 0, 3, 2, 5, 4, -1, -1])
    codes, found = descend(weight, moment, grid, kept=kept, partner=partner)
    decoded = found.decode(codes)
    assert not decoded[~kept].any()
    signed = codes - grid.spread(grid.zero)
    first, second = signed[..., [0, 2, 4]], signed[..., [1, 3, 5]]
    same = first * second > 0
    assert (np.abs(first + second)[same] <= 128).all()
