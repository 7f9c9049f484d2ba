"""Importance of channels where several products read one weight."""

import numpy as np

from onnx_compress.ir.graph import from_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.prune.structure import ranked

from graphs import parsed

WIDE = 24
RNG = np.random.default_rng(3)
W1, W2 = (RNG.standard_normal(shape).astype("f") for shape in ((16, WIDE), (WIDE, 8)))
FIT = tuple({"x": RNG.standard_normal((40, 16)).astype("f")} for _ in range(6))


def ranking(body, score="local", first=W1, **more):
    text = f"(float[N,16] x) => (float[N,8] y) {{ a = MatMul(x, W1)  r = Relu(a)  {body} }}"
    model = from_proto(parsed(text, W1=first, W2=W2, **more))
    context = Context(targets.load("avx2"), FIT[0], FIT)
    (found,) = ranked(model, context, score)[1]
    return found


def test_two_products_of_one_weight_are_asked_together():
    once = ranking("y = MatMul(r, W2)")
    twice = ranking("b = MatMul(r, W2)  s = Tanh(r)  c = MatMul(s, W2)  y = Add(b, c)")
    assert sorted(twice.order) == list(range(WIDE))
    assert np.all(np.diff(twice.losses) >= -1e-9)
    alike = ranking("b = MatMul(r, W2)  s = Identity(r)  c = MatMul(s, W2)  y = Add(b, c)")
    assert np.array_equal(once.order, alike.order)
    np.testing.assert_allclose(alike.losses, 2 * once.losses, rtol=1e-3)


def test_a_product_that_varies_more_does_not_count_more():
    body = "b = MatMul(r, W2)  s = Mul(r, k)  c = MatMul(s, W2)  y = Add(b, c)"
    one, other = (ranking(body, k=np.float32(factor)) for factor in (1, 100))
    assert np.array_equal(one.order, other.order)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-3)


def test_dead_channels_do_not_make_the_others_cheap():
    """They go first; what the outputs lose by the others has to be found out all the same."""
    dead = W1.copy()
    dead[:, : WIDE // 3] = 0
    some, none = (ranking("y = MatMul(r, W2)", None, first) for first in (dead, W1))
    assert some.losses[WIDE // 3] < 1e-6
    assert some.losses[-1] > 0.3 * none.losses[-1]
