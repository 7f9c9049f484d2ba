"""Masks, masked least squares, low rank: what each formula promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.passes.solvers import masks
from onnx_compress.passes.solvers.loss import damped, loss
from onnx_compress.passes.solvers.lowrank import randomised_svd, spectrum, whitened_svd
from onnx_compress.passes.solvers.refit import masked_least_squares

from test_solvers_quantization import SEEDS, SHAPES, layer, problem

SHARES = st.floats(0, 1)


@given(SHAPES, SHARES, SEEDS)
def test_each_row_keeps_its_share_of_the_largest(shape, share, seed):
    weight, moment = problem(shape, seed)
    for scores in (masks.magnitude(weight), masks.wanda(weight, moment), masks.obs(weight, moment)):
        mask = masks.sparse(scores, share)
        assert (mask.sum(1) == shape[1] - int(share * shape[1] + 1e-9)).all()
        for row, kept in zip(scores, mask, strict=True):
            assert kept.all() or not kept.any() or row[kept].min() >= row[~kept].max()


@given(SHAPES, SEEDS, st.sampled_from([(1, 2), (2, 4), (4, 8)]))
def test_of_every_m_there_are_n(shape, seed, pattern):
    n, m = pattern
    weight, _ = problem(shape, seed)
    mask = masks.n_of_m(masks.magnitude(weight), n, m)
    whole = shape[1] // m * m
    assert (mask[:, :whole].reshape(-1, m).sum(1) == n).all()
    assert mask.shape == weight.shape


@given(SHAPES, SHARES, SEEDS)
def test_blocks_go_whole(shape, share, seed):
    weight, _ = problem(shape, seed)
    mask = masks.blocks(masks.magnitude(weight), share, 2, 4)
    for top in range(0, shape[0], 2):
        for left in range(0, shape[1], 4):
            part = mask[top : top + 2, left : left + 4]
            assert part.all() or not part.any()


@settings(max_examples=50)
@given(SHAPES, SHARES, SEEDS)
def test_the_rest_is_the_least_squares_solution(shape, share, seed):
    weight, moment = problem(shape, seed)
    mask = masks.sparse(masks.wanda(weight, moment), share)
    found = masked_least_squares(weight, moment, mask, iterations=400, tolerance=1e-6)
    assert (found[~mask] == 0).all()
    best = np.zeros_like(weight)
    for row, kept in enumerate(mask):
        inner = moment[np.ix_(kept, kept)]
        best[row, kept] = np.linalg.solve(inner, moment[kept] @ weight[row])
    least = loss(weight, best, moment)
    assert loss(weight, found, moment) <= least * (1 + 1e-3) + 1e-9
    assert loss(weight, found, moment) <= loss(weight, weight * mask, moment) * (1 + 1e-9)


def test_nothing_removed_is_nothing_changed():
    weight, moment = problem((8, 20), 0)
    mask = np.ones(weight.shape, bool)
    assert np.array_equal(masked_least_squares(weight, moment, mask), weight)
    assert masks.sparse(masks.magnitude(weight), 0.0).all()


@settings(max_examples=40)
@given(SHAPES, SEEDS, st.integers(1, 9))
def test_the_loss_of_a_rank_is_what_the_spectrum_says(shape, seed, rank):
    weight, moment = problem(shape, seed)
    rank = min(rank, *shape)
    first, second = whitened_svd(weight, moment, rank)
    assert first.shape == (shape[0], rank)
    assert second.shape == (rank, shape[1])
    values = spectrum(weight, moment)
    found = loss(weight, first @ second, moment)
    assert found == pytest.approx(values[rank:].sum(), rel=1e-6, abs=1e-9 * values.sum())


def test_no_other_product_of_that_rank_is_better():
    weight, moment = problem((30, 40), 5)
    first, second = whitened_svd(weight, moment, 5)
    least = loss(weight, first @ second, moment)
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    assert least <= loss(weight, (u[:, :5] * s[:5]) @ v[:5], moment)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = first + 0.01 * rng.standard_normal(first.shape)
        assert least <= loss(weight, other @ second, moment)


def test_random_sketches_come_close_to_the_best():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((80, 6)) @ rng.standard_normal((6, 120))
    weight += 0.01 * rng.standard_normal(weight.shape)
    first, second = randomised_svd(weight, 6)
    s = np.linalg.svd(weight, compute_uv=False)
    assert np.linalg.norm(weight - first @ second) <= 1.05 * np.sqrt((s[6:] ** 2).sum())


def test_dead_inputs_and_few_samples_can_be_inverted():
    x = np.random.default_rng(0).standard_normal((3, 10))
    x[:, 4] = 0
    moment = damped(x.T @ x / 3)
    assert np.linalg.cond(moment) < 1e6
    assert moment[4, 4] > 0
    assert np.linalg.inv(damped(np.zeros((4, 4)))).shape == (4, 4)


def test_a_half_pruned_layer_is_repaired_as_published():
    """50 %: the refit takes 3.5 times off the error of magnitude alone, with Wanda's mask."""
    weight, moment = layer(64, 512, 2)
    plain = masks.sparse(masks.magnitude(weight), 0.5)
    better = masks.sparse(masks.wanda(weight, moment), 0.5)
    repaired = masked_least_squares(weight, moment, better)
    assert loss(weight, repaired, moment) < loss(weight, weight * plain, moment) / 3.5
