"""Groups at once give what each alone does, in any order and on any number of threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from onnx_compress.passes.solvers import masks, parallel
from onnx_compress.passes.solvers.binary import (
    decode_bases,
    descend_bases,
    residual_bases,
    sign_grid,
    ternary,
    ternary_grid,
)
from onnx_compress.passes.solvers.descent import descend, refitted
from onnx_compress.passes.solvers.gptq import gptq
from onnx_compress.passes.solvers.hqq import hqq
from onnx_compress.passes.solvers.loss import damped, loss, shrunk
from onnx_compress.passes.solvers.lowrank import whitened_svd
from onnx_compress.passes.solvers.refit import masked_least_squares
from onnx_compress.passes.solvers.rounding import min_max, mse_clip
from onnx_compress.passes.solvers.solve import solve, solve_sparse

from test_solvers_quantization import SEEDS, problem

STACKS = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 20))


def bases(w, h):
    importance = np.diagonal(h, axis1=-2, axis2=-1)
    signs, scales = residual_bases(w, 2, 5, importance)
    return decode_bases(*descend_bases(w, h, signs, scales, 5), 5)


def diagonal(h):
    return np.diagonal(h, axis1=-2, axis2=-1)


def descended(w, h):
    codes, grid = descend(w, h, mse_clip(w, 3, 4, importance=diagonal(h)), refit=True)
    return grid.decode(codes)


def by_gptq(w, h):
    grid = min_max(w, 3)
    return grid.decode(gptq(w, h, grid))


SOLVERS = {
    "min_max": lambda w, h: min_max(w, 4, 5).nearest(w),
    "mse_clip": lambda w, h: mse_clip(w, 4, 5, importance=diagonal(h)).nearest(w),
    "hqq": lambda w, h: hqq(w, 3, 5).nearest(w),
    "descend": descended,
    "gptq": by_gptq,
    "bases": bases,
    "ternary": lambda w, h: ternary(w, 5, diagonal(h))[0],
    "wanda": lambda w, h: w * masks.sparse(masks.wanda(w, h), 0.5),
    "obs": lambda w, h: w * masks.n_of_m(masks.obs(w, h), 2, 4),
    "solve": lambda w, h: solve(w, h, 3, 5).decode(),
    "solve_sparse": lambda w, h: solve_sparse(w, h, 0.5),
}


def stack(shape, seed):
    problems = [problem(shape[1:], seed + at) for at in range(shape[0])]
    return np.stack([w for w, _ in problems]), np.stack([h for _, h in problems])


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=8)
@given(shape=STACKS, seed=SEEDS)
def test_groups_are_solved_each_by_itself(name, shape, seed):
    weight, moment = stack(shape, seed)
    together = SOLVERS[name](weight, moment)
    apart = [SOLVERS[name](w, h) for w, h in zip(weight, moment, strict=True)]
    assert together.shape == weight.shape
    # sums in another order may turn what lies between two levels: the loss is then the same
    for one, other, w, h in zip(together, apart, weight, moment, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5) or loss(w, one, h) == pytest.approx(
            loss(w, other, h), rel=0.2
        )


@pytest.mark.parametrize("name", SOLVERS)
def test_one_group_is_a_matrix(name):
    weight, moment = problem((300, 12), 7)  # of more than one piece
    one, other = SOLVERS[name](weight, moment), SOLVERS[name](weight[None], moment[None])
    assert other.shape == (1, 300, 12)
    assert np.array_equal(one, other[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_the_order_of_groups_and_of_rows_does_not_matter(name):
    weight, moment = stack((4, 6, 16), 3)
    one = SOLVERS[name](weight, moment)
    other = SOLVERS[name](weight[::-1, ::-1], moment[::-1])[::-1, ::-1]
    assert np.mean(np.isclose(one, other, rtol=1e-4, atol=1e-5)) > 0.98


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("factor", [2.0**-12, 2.0**9])
def test_scaling_the_weight_or_the_inputs(name, factor):
    """W times a number: so is V. H times a number: V stays. Powers of two: to the last bit."""
    weight, moment = problem((6, 24), 11)
    one = SOLVERS[name](weight, moment)
    larger = SOLVERS[name](weight * factor, moment)
    expected = one if name == "ternary" else one * factor
    assert np.allclose(larger, expected, rtol=1e-4, atol=1e-5 * factor) or name == "hqq"
    for size in (factor, 2.0**120, 2.0**-120):
        assert np.allclose(SOLVERS[name](weight, moment * size), one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_of_nothing_comes_nothing(name, shape):
    weight, moment = np.zeros(shape), np.eye(shape[1])
    assert SOLVERS[name](weight, moment).shape == shape


@pytest.mark.parametrize(
    "solver",
    [
        lambda w, h, n: descend(w, h, mse_clip(w, 3, 8, threads=n), refit=True, threads=n)[0],
        lambda w, h, n: gptq(w, h, min_max(w, 3, 8), threads=n),
        lambda w, h, n: refitted(w, h, min_max(w, 3, 8), min_max(w, 3, 8).codes(w), n).scale,
        lambda w, h, n: masked_least_squares(w, h, masks.sparse(masks.wanda(w, h), 0.6), threads=n),
        lambda w, h, n: residual_bases(w, 2, 8, threads=n)[1],
        lambda w, h, n: hqq(w, 3, 8, threads=n).zero,
        lambda w, h, n: solve(w, h, 2, 8, rank=3, threads=n).decode(),
    ],
)
def test_bytes_do_not_depend_on_the_threads(solver):
    weight, moment = problem((600, 40), 1)
    one, two, four = (solver(weight, moment, threads) for threads in (1, 2, 4))
    assert np.array_equal(one, two)
    assert np.array_equal(one, four)


def test_layers_at_the_same_time_leave_linear_algebra_in_one_thread():
    def pools():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with parallel.one_thread():  # loads what there is to be limited
        pass
    before = pools()
    weight, moment = problem((300, 40), 1)
    grid = min_max(weight, 3, 8)
    seen = []

    def layer(_):
        codes, _ = descend(weight, moment, grid)
        with parallel.one_thread():
            seen.append(max(pools()))
        return codes

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(layer, range(12)))
    assert seen == [1] * 12
    assert all(np.array_equal(found[0], other) for other in found)
    assert pools() == before


FRESH = """
import sys
from onnx_compress.passes.solvers.parallel import one_thread
assert "scipy.linalg" not in sys.modules
with one_thread():
    from scipy.linalg import lapack
    from threadpoolctl import threadpool_info
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    print(len(pools), max(pool["num_threads"] for pool in pools))
"""


def test_libraries_that_are_loaded_later_have_one_thread_too():
    """scipy and numpy bring a BLAS each; statistics call the one of scipy."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["OPENBLAS_NUM_THREADS"] = "4"
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "1"


@settings(max_examples=30)
@given(st.tuples(st.integers(1, 6), st.integers(2, 20)), SEEDS)
def test_closed_forms_do_not_mind_the_order_of_columns(shape, seed):
    weight, moment = problem(shape, seed)
    turn = np.random.default_rng(seed).permutation(shape[1])
    weight_turned, moment_turned = weight[:, turn], moment[np.ix_(turn, turn)]
    mask = masks.sparse(masks.wanda(weight, moment), 0.5)
    one = masked_least_squares(weight, moment, mask, 200, 1e-5)
    other = masked_least_squares(weight_turned, moment_turned, mask[:, turn], 200, 1e-5)
    assert loss(weight, one, moment) == pytest.approx(
        loss(weight_turned, other, moment_turned), rel=1e-2, abs=1e-6
    )
    rank = max(min(shape) // 2, 1)
    first, second = whitened_svd(weight, moment, rank)
    a, b = whitened_svd(weight_turned, moment_turned, rank)
    assert np.allclose((first @ second)[:, turn], a @ b, atol=1e-6)
    assert np.array_equal(
        mse_clip(weight, 3).nearest(weight)[:, turn],
        mse_clip(weight_turned, 3).nearest(weight_turned),
    )


@settings(max_examples=40)
@given(STACKS, st.integers(1, 3), st.sampled_from([0, 4, 300]), SEEDS)
def test_descent_of_bases_never_raises_the_loss(shape, count, group, seed):
    weight, moment = stack(shape, seed)
    signs, scales = residual_bases(weight, count, group)
    losses = [loss(weight, decode_bases(signs, scales, group), moment)]
    for sweeps in (1, 3):
        found = descend_bases(weight, moment, signs, scales, group, sweeps)
        assert set(np.unique(found[0])) <= {-1, 1}
        losses.append(loss(weight, decode_bases(*found, group), moment))
    slack = 1e-9 * loss(weight, 0 * weight, moment)
    assert losses[1] <= losses[0] * (1 + 1e-4) + slack
    assert losses[2] <= losses[1] * (1 + 1e-4) + slack


@settings(max_examples=40)
@given(STACKS, st.sampled_from([0, 3]), SEEDS)
def test_signs_and_three_levels_are_grids(shape, group, seed):
    weight, moment = stack(shape, seed)
    grid = sign_grid(weight, group)
    signs, scales = residual_bases(weight, 1, group, turns=0)
    assert np.allclose(grid.nearest(weight), decode_bases(signs, scales, group), atol=1e-12)
    three = ternary_grid(weight, group)
    assert three.top == 2
    codes, fitted = descend(weight, moment, three, refit=True)
    assert set(np.unique(codes)) <= {0, 1, 2}
    before, after = (loss(weight, v, moment) for v in (three.nearest(weight), fitted.decode(codes)))
    assert after <= before * (1 + 1e-5) + 1e-9


def test_damping_and_shrinking_of_many_are_those_of_each():
    _, moment = stack((3, 2, 7), 5)
    moment[1] = 0
    for function in (damped, lambda h: shrunk(h, 0.7)):
        assert np.allclose(function(moment), [function(one) for one in moment])
    assert np.array_equal(shrunk(moment, 1.0), moment)
    assert np.array_equal(np.diagonal(shrunk(moment[0], 0.2)), np.diagonal(moment[0]))
