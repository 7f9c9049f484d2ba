"""Bases, codebooks, grids without data, structured removal, heads: what each formula promises."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.passes.solvers.binary import decode_bases, residual_bases, ternary
from onnx_compress.passes.solvers.heads import logistic, ridge
from onnx_compress.passes.solvers.hqq import hqq
from onnx_compress.passes.solvers.kmeans import codebook
from onnx_compress.passes.solvers.loss import loss
from onnx_compress.passes.solvers.rounding import min_max
from onnx_compress.passes.solvers.structured import bias_correction, compensated, group_scores

from test_solvers_quantization import SEEDS, SHAPES, problem


@settings(max_examples=60)
@given(SHAPES, st.integers(1, 4), st.sampled_from([0, 5, 16]), SEEDS)
def test_more_bases_never_cost_more_and_turns_neither(shape, count, group, seed):
    weight, _ = problem(shape, seed)
    errors = []
    for turns in (0, 3, 10):
        signs, scales = residual_bases(weight, count, group, turns=turns)
        assert set(np.unique(signs)) <= {-1, 1}
        errors.append(float(((decode_bases(signs, scales, group) - weight) ** 2).sum()))
    one_more = residual_bases(weight, count + 1, group)
    errors.append(float(((decode_bases(*one_more, group) - weight) ** 2).sum()))
    assert errors[1] <= errors[0] * (1 + 1e-9) + 1e-12
    assert errors[2] <= errors[1] * (1 + 1e-9) + 1e-12
    assert errors[3] <= errors[0] * (1 + 1e-9) + 1e-12


def test_bases_lose_what_is_published():
    """Of a normal weight: 0.36 of its energy with one, 0.12 with two, 0.035 with three."""
    weight = np.random.default_rng(0).standard_normal((20, 500))
    for count, expected in ((1, 0.363), (2, 0.12), (3, 0.036)):
        signs, scales = residual_bases(weight, count)
        change = decode_bases(signs, scales) - weight
        assert (change**2).mean() == pytest.approx(expected, rel=0.1)


@given(SHAPES, SEEDS)
def test_ternary_scales_are_least_squares(shape, seed):
    weight, _ = problem(shape, seed)
    codes, scale = ternary(weight)
    assert set(np.unique(codes)) <= {-1, 0, 1}
    change = weight - scale * codes
    assert np.allclose((change * codes).sum(1), 0, atol=1e-9)


@settings(max_examples=60)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9), st.integers(1, 4), SEEDS)
def test_the_codebook_is_the_best_of_all(values, count, seed):
    values = np.array(values, float)
    d = np.random.default_rng(seed).integers(1, 5, len(values)).astype(float)
    centres, index = codebook(values, count, d)
    found = float((d * (values - centres[index]) ** 2).sum())
    order = np.argsort(values)
    least = np.inf
    for cuts in combinations(range(1, len(values)), min(count, len(values)) - 1):
        runs = np.split(order, cuts)
        means = [np.average(values[run], weights=d[run]) for run in runs]
        total = sum(
            (d[run] * (values[run] - m) ** 2).sum() for run, m in zip(runs, means, strict=True)
        )
        least = min(least, total)
    assert found <= least + 1e-6


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=30), st.integers(1, 5), SEEDS)
def test_codebooks_mind_neither_order_nor_unit(values, count, seed):
    values = np.array(values, float)
    turn = np.random.default_rng(seed).permutation(len(values))
    centres, index = codebook(values, count)
    same, moved = codebook(values[turn], count)
    assert np.allclose(same, centres)
    assert np.allclose(same[moved], centres[index][turn])
    larger, _ = codebook(values * 2.0**9, count)
    assert np.allclose(larger, centres * 2.0**9)


def test_a_codebook_of_many_numbers_is_near_the_best():
    values = np.random.default_rng(0).standard_normal(200_000)
    centres, index = codebook(values, 16)
    assert len(centres) == 16
    # the best for a normal distribution, Max 1960: 0.009497
    assert ((values - centres[index]) ** 2).mean() == pytest.approx(0.0095, rel=0.03)


@settings(max_examples=40)
@given(SHAPES, st.integers(2, 4), st.sampled_from([0, 8, 32]), SEEDS)
def test_zeros_without_data_never_cost_more(shape, bits, group, seed):
    weight, _ = problem(shape, seed)
    before, after = min_max(weight, bits, group), hqq(weight, bits, group)
    assert np.abs(after.nearest(weight) - weight).mean() <= np.abs(
        before.nearest(weight) - weight
    ).mean() * (1 + 1e-12)


@settings(max_examples=40)
@given(st.tuples(st.integers(1, 9), st.integers(2, 30)), SEEDS)
def test_what_is_left_makes_up_as_well_as_it_can(shape, seed):
    weight, moment = problem(shape, seed)
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(shape[1], rng.integers(1, shape[1]), replace=False))
    found = np.zeros_like(weight)
    found[:, kept] = compensated(weight, moment, kept)
    least = loss(weight, found, moment)
    plain = np.zeros_like(weight)
    plain[:, kept] = weight[:, kept]
    assert least <= loss(weight, plain, moment) * (1 + 1e-9)
    for _ in range(5):
        other = found.copy()
        other[:, kept] += 0.01 * rng.standard_normal((shape[0], len(kept)))
        assert least <= loss(weight, other, moment) * (1 + 1e-9)
    gone = np.setdiff1d(np.arange(shape[1]), kept)
    assert group_scores(weight, moment, [gone])[0] == pytest.approx(least, rel=1e-5, abs=1e-8)


def test_the_mean_output_is_kept():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 12)) + rng.standard_normal(12)
    weight, other = rng.standard_normal((5, 12)), rng.standard_normal((5, 12))
    extra = bias_correction(weight, other, x.mean(0))
    assert np.allclose((x @ other.T + extra).mean(0), (x @ weight.T).mean(0))


def test_heads_find_what_made_the_data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 6))
    true, shift = rng.standard_normal((6, 3)), rng.standard_normal(3)
    found, level = ridge(x, x @ true + shift, 1e-9)
    assert np.allclose(found, true, atol=1e-6)
    assert np.allclose(level, shift, atol=1e-6)
    chance = 1 / (1 + np.exp(-(x @ true[:, 0] + 0.5)))
    found, level = logistic(x, rng.random(2000) < chance, 1e-6)
    assert np.allclose(found, true[:, 0], atol=0.3)
    assert level == pytest.approx(0.5, abs=0.2)
    separable = logistic(x, x[:, 0] > 0)[0]
    assert np.isfinite(separable).all()
