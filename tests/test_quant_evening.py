"""quant: what the features of an input are divided by before they become bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_compress.kernels.linear import dynamic_quantize
from onnx_compress.passes.quant.evening import evened
from onnx_compress.passes.statistics import Ends


def drawn(rows, columns, seed, wild=(3,), size=40.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)).astype("float32")
    x[:, list(wild)] *= size
    return x, rng.standard_normal((24, columns)).astype("float32")


def ends(x):
    return Ends(x.min(0).astype(float), x.max(0).astype(float), (x**2).mean(0), len(x))


def error(x, w, s):
    """Of the outputs, with both in bytes."""
    codes, step, zero = dynamic_quantize((x / s).astype("float32"))
    given = (codes.astype(float) - zero) * step
    scaled = w * s
    own = np.abs(scaled).max(1, keepdims=True) / 127
    exact = x.astype(float) @ w.T
    return np.linalg.norm(given @ (np.rint(scaled / own) * own).T - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("skewed", [False, True])
def test_outliers_are_divided_so_that_outputs_come_nearer(skewed):
    x, w = drawn(200, 32, 1)
    if skewed:  # as behind Gelu
        x, w = np.maximum(x, -0.1), w
    w[:, 3] /= 20
    s = evened(ends(x), [w])
    assert s is not None
    assert s.argmax() == 3
    held, _ = drawn(200, 32, 2)
    held = np.maximum(held, -0.1) if skewed else held
    assert error(held, w, s) < 0.7 * error(held, w, np.ones(32))


def test_even_features_are_left_alone():
    x, w = drawn(200, 32, 1, wild=())
    assert evened(ends(x), [w]) is None


def test_dead_features_and_weights_stay():
    x, w = drawn(200, 32, 1)
    x[:, 5], w[:, 7], w[:, 3] = 0, 0, w[:, 3] / 20
    s = evened(ends(x), [w])
    assert s is not None
    assert np.isfinite(s).all()
    assert s[5] == s[7] == 1
    assert evened(ends(np.zeros_like(x)), [w]) is None
    assert evened(ends(x), [np.full_like(w, np.nan)]) is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_the_order_of_features_and_weights_does_not_matter(seed):
    x, w = drawn(100, 16, seed, wild=(2, 9))
    turn = np.random.default_rng(seed).permutation(16)
    s, other = evened(ends(x), [w[:10], w[10:]]), evened(ends(x[:, turn]), [w[:, turn]])
    assert (s is None) == (other is None)
    if s is not None:
        np.testing.assert_allclose(s[turn], other, rtol=1e-3)
