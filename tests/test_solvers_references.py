"""Each solver against its formula, written down in a few lines without regard to speed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from onnx_compress.passes.solvers import masks
from onnx_compress.passes.solvers.binary import decode_bases, residual_bases, ternary
from onnx_compress.passes.solvers.descent import descend, refitted
from onnx_compress.passes.solvers.grid import Grid, groups
from onnx_compress.passes.solvers.heads import logistic, ridge
from onnx_compress.passes.solvers.hqq import hqq
from onnx_compress.passes.solvers.kmeans import nearest
from onnx_compress.passes.solvers.loss import loss
from onnx_compress.passes.solvers.lowrank import whitened_svd
from onnx_compress.passes.solvers.rounding import SHARES, min_max, mse_clip

from test_solvers_quantization import SEEDS, problem

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 24))


def slow_clip(row, d, bits):
    """The best share of one group, tried one by one."""
    low, high, top = min(row.min(), 0), max(row.max(), 0), 2**bits - 1
    costs = []
    for share in SHARES:
        scale = share * (high - low) / top or 1.0
        zero = np.round(-share * low / scale)
        value = scale * (np.clip(np.round(row / scale + zero), 0, top) - zero)
        costs.append((d * (row - value) ** 2).sum())
    return min(costs)


@settings(max_examples=40)
@given(SHAPES, st.integers(2, 6), SEEDS)
def test_clipping_finds_the_best_share(shape, bits, seed):
    weight, moment = problem(shape, seed)
    d = np.diagonal(moment)
    found = mse_clip(weight, bits, importance=d).nearest(weight)
    costs = (d * (weight - found) ** 2).sum(1)
    assert np.allclose(costs, [slow_clip(row, d, bits) for row in weight], rtol=1e-3, atol=1e-9)


@settings(max_examples=40)
@given(SHAPES, st.integers(2, 4), SEEDS)
def test_zeros_of_half_quadratic_splitting(shape, bits, seed):
    weight, _ = problem(shape, seed)
    grid = min_max(weight, bits)
    scale, zero, beta = grid.scale, grid.zero, 10.0
    met = [zero]
    for _ in range(20):
        codes = np.clip(np.round(weight / scale + zero), 0, grid.top)
        change = weight - scale * (codes - zero)
        size = np.maximum(np.abs(change), 1e-12)
        error = np.sign(change) * np.maximum(np.abs(change) - size**-0.3 / beta, 0)
        zero = (codes - (weight - error) / scale).mean(1, keepdims=True)
        beta *= 1.01
        met.append(zero)

    def cost(zero):
        found = Grid(scale, zero, bits, grid.group, grid.columns).nearest(weight)
        return np.abs(found - weight).mean(1)

    found = cost(hqq(weight, bits).zero)
    assert (found <= cost(grid.zero) * (1 + 1e-6) + 1e-9).all()
    # the best of all turns, or what came before the first turn in which no row gained
    assert (found >= np.min([cost(zero) for zero in met], axis=0) * (1 - 1e-4) - 1e-6).all()


@settings(max_examples=40)
@given(SHAPES, st.integers(1, 6), SEEDS)
def test_low_rank_is_the_singular_values_of_what_is_whitened(shape, rank, seed):
    weight, moment = problem(shape, seed)
    low = np.linalg.cholesky(moment)
    u, s, v = np.linalg.svd(weight @ low, full_matrices=False)
    expected = (u[:, :rank] * s[:rank]) @ v[:rank] @ np.linalg.inv(low)
    first, second = whitened_svd(weight, moment, rank)
    least, found = (loss(weight, one, moment) for one in (expected, first @ second))
    assert found == pytest.approx(least, rel=1e-5, abs=1e-9 * loss(weight, 0 * weight, moment))


@settings(max_examples=30)
@given(st.tuples(st.integers(1, 3), st.integers(2, 10)), SEEDS)
def test_a_score_is_what_removing_one_weight_costs(shape, seed):
    weight, moment = problem(shape, seed)
    for row, scores in zip(weight, masks.obs(weight, moment), strict=True):
        for k, score in enumerate(scores):
            rest = np.delete(np.arange(shape[1]), k)
            best = np.zeros(shape[1])
            best[rest] = np.linalg.solve(moment[np.ix_(rest, rest)], moment[rest] @ row)
            assert score == pytest.approx((row - best) @ moment @ (row - best), rel=1e-5, abs=1e-9)
    assert np.allclose(masks.wanda(weight, moment), abs(weight) * np.diagonal(moment) ** 0.5)


@settings(max_examples=40)
@given(SHAPES, st.sampled_from([0, 4, 7]), SEEDS)
def test_fitted_scales_are_one_turn_of_least_squares(shape, group, seed):
    weight, moment = problem(shape, seed)
    grid = mse_clip(weight, 3, group)
    codes = grid.codes(weight)
    scale = grid.scale.copy()
    for g in range(scale.shape[1]):
        place = slice(g * grid.group, (g + 1) * grid.group)
        d = np.zeros_like(weight)
        d[:, place] = (codes - grid.spread(grid.zero))[:, place]
        gradient = (weight - np.repeat(scale, grid.group, 1)[:, : shape[1]]
                    * (codes - grid.spread(grid.zero))) @ moment  # fmt: skip
        curvature = ((d @ moment) * d).sum(1)
        step = (d * gradient).sum(1) / np.where(curvature > 0, curvature, 1)
        scale[:, g] += np.where(scale[:, g] + step > 0.1 * scale[:, g], step, 0)
    found = refitted(weight, moment, grid, codes).scale
    assert np.allclose(found, scale, rtol=1e-3, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(1, 2), SEEDS)
def test_signs_are_near_the_best_of_all(columns, count, seed):
    """Every pattern of signs is tried; the alternation may end in another minimum, not far off."""
    row = np.random.default_rng(seed).standard_normal(columns)
    patterns = 1.0 - 2 * ((np.arange(2**columns)[:, None] >> np.arange(columns)) & 1)
    least = np.inf
    for index in np.ndindex(*(len(patterns),) * count):
        basis = patterns[list(index)].T
        rest = row - basis @ np.linalg.lstsq(basis, row, rcond=None)[0]
        least = min(least, float((rest**2).sum()))
    found = float(((decode_bases(*residual_bases(row[None], count))[0] - row) ** 2).sum())
    assert least - 1e-9 <= found
    assert count == 2 or found == pytest.approx(least, abs=1e-9)
    plain = float(((np.abs(row).mean() * np.sign(row) - row) ** 2).sum())
    assert found <= plain + 1e-9


def test_three_levels():
    row = np.array([[3.0, -2.0, 0.5, -0.1, 0.0, 1.0]])
    codes, scale = ternary(row)  # 0.7 of the mean size: 0.77
    assert codes.tolist() == [[1, -1, 0, 0, 0, 1]]
    assert scale[0, 0] == pytest.approx(2.0)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20), SEEDS)
def test_the_nearest_centre(values, seed):
    centres = np.unique(np.random.default_rng(seed).standard_normal(5))
    distances = np.abs(np.array(values)[:, None] - centres)
    found = distances[np.arange(len(values)), nearest(np.array(values), centres)]
    assert np.allclose(found, distances.min(1))


def test_heads_are_where_their_losses_are_least():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 4)), rng.standard_normal((80, 2))
    found, level = ridge(x, y, 0.1)
    centred = x - x.mean(0)
    damping = 0.1 * (centred**2).sum(0).mean()
    wide = np.concatenate([centred, np.sqrt(damping) * np.eye(4)])
    target = np.concatenate([y - y.mean(0), np.zeros((4, 2))])
    assert np.allclose(found, np.linalg.lstsq(wide, target, rcond=None)[0])
    assert np.allclose(level, y.mean(0) - x.mean(0) @ found)

    labels = (rng.random(80) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)

    def cost(p):
        score = x @ p[:4] + p[4]
        return (np.logaddexp(0, score) - labels * score).sum() + 0.5 * 0.01 * 80 * (
            p[:4] ** 2
        ).sum()

    best = minimize(cost, np.zeros(5), tol=1e-12).x
    weights, shift = logistic(x, labels, 0.01)
    assert np.allclose([*weights, shift], best, atol=1e-3)


def test_a_descent_from_a_given_start_goes_on_from_there():
    weight, moment = problem((5, 30), 2)
    grid = mse_clip(weight, 3, 8)
    one, _ = descend(weight, moment, grid, sweeps=1)
    again, _ = descend(weight, moment, grid, start=one, sweeps=9)
    settled, _ = descend(weight, moment, grid, start=again, sweeps=9)
    assert np.array_equal(again, settled)
    assert groups(weight, 8).shape == (5, 4, 8)
    assert (groups(weight, 8)[:, 3, 6:] == weight[:, -1:]).all()
