"""The error of outputs whose parts are of very unlike size: boxes and scores in one tensor."""

import numpy as np
import pytest

from onnx_compress.passes.prune import Prune
from onnx_compress.passes.verify.quality import OutputQuality, Tally

from models_by_text import build, draw, run


def figures(references: list[np.ndarray], actual: list[np.ndarray]) -> OutputQuality:
    tally = Tally("y")
    for r, y in zip(references, actual, strict=True):
        tally.add(r, y)
    return tally.result()


def test_what_small_parts_lose_is_not_hidden_by_large_ones():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((1, 4, 200)) * np.array([300, 200, 1, 0.5])[:, None]
    y = r.copy()
    y[:, 2:] = 0  # all scores are gone
    assert figures([r], [y]).lost == pytest.approx(1 / 2)
    assert figures([r], [y]).error == pytest.approx(np.sqrt(1 / 2) / 2)
    assert figures([r, r], [r, y]).lost == pytest.approx(1 / 4, rel=0.02)
    assert figures([r], [r]).lost == 0
    y[:, 2:] = 50  # nothing is lost more than once
    assert figures([r], [y]).lost == pytest.approx(1 / 2)


def test_channels_of_like_size_are_one_part():
    rng = np.random.default_rng(1)
    r = rng.standard_normal((1, 6, 200)) * np.array([9, 5, 3, 2, 1, 0.5])[:, None]
    y = r.copy()
    y[:, 5] = 0
    found = figures([r], [y])
    assert found.lost <= found.error**2
    assert found.error < 0.06


def test_channels_of_few_numbers_and_constant_ones_tell_nothing():
    r = np.ones((1, 3, 200))
    assert figures([r], [2 * r]).lost == 0
    assert figures([draw(1, 3, 4)], [draw(1, 3, 4)]).lost == 0
    assert figures([np.zeros((1, 3, 200), np.int64)], [np.ones((1, 3, 200), np.int64)]).lost == 0


DETECTOR = """g (float[1,4,16,16] x) => (float[1,12,256] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) c = Mul(b, large)
    d = Conv(x, v1) s = Relu(d) e = Conv(s, v2) f = Sigmoid(e) g = Mul(f, small)
    h = Concat<axis=1>(c, g) y = Reshape(h, shape) }"""


def test_pruning_does_not_take_the_scores_of_a_detector():
    stored = {"w1": draw(32, 4, 1, 1), "w2": draw(4, 32, 1, 1)}
    stored |= {"v1": draw(32, 4, 1, 1), "v2": draw(8, 32, 1, 1)}
    numbers = {"large": np.float32([300]), "small": np.float32([0.01])}
    proto = build(DETECTOR, **stored, **numbers, shape=np.array([1, 12, 256]))
    feeds = [{"x": draw(1, 4, 16, 16)} for _ in range(16)]
    small = Prune(channels=0.3)(proto, fit=feeds)
    lost = []
    for feed in feeds:
        (before,), (after,) = run(proto, feed), run(small, feed)
        lost.append(figures([before[:, 4:]], [after[:, 4:]]).error)
    assert small.graph.initializer != proto.graph.initializer
    assert max(lost) < 0.3
