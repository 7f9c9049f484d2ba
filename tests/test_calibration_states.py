"""Calibration data of inputs without samples: scalars, states and caches."""

import numpy as np
import pytest

from calibration_files import (
    ROWS,
    X,
    feeds,
    port,
    put,
    refused,
    shapes,
)
from models_by_text import build, draw, quick

RATE = port("sr", dtype="int64")
STATE = port("h", 2, 1, 64)
OPEN = port("h", "layers", 1, 64)
CACHE = port("past", "batch", 3, "past", 4)


@pytest.mark.parametrize("rate", [np.int64(16000), np.int64([16000])], ids=["scalar", "[1]"])
def test_a_scalar_given_once_holds_for_all_samples(tmp_path, rate):
    by_name = put(tmp_path / "by_name", x=ROWS, sr=rate)
    by_file = put(tmp_path / "by_file", a={"x": ROWS[:3], "sr": rate}, b={"x": ROWS, "sr": rate})
    for folder, count in ((by_name, 8), (by_file, 11)):
        found = feeds(folder, X, RATE)
        assert [(feed["sr"].shape, int(feed["sr"])) for feed in found] == [((), 16000)] * count


def test_a_scalar_may_differ_between_files_and_samples(tmp_path):
    a, b = {"x": ROWS[:2], "sr": np.int64(8)}, {"x": ROWS[:2], "sr": np.int64([16, 48])}
    found = feeds(put(tmp_path, a=a, b=b), X, RATE)
    assert [int(feed["sr"]) for feed in found] == [8, 8, 16, 48]


def test_a_state_in_one_file_of_two_is_missing_in_the_other(tmp_path):
    state = np.zeros((2, 1, 64), "float32")
    error = refused(put(tmp_path, a={"x": ROWS, "h": state}, b={"x": ROWS}), X, STATE)
    assert "b.npz" in error
    assert "'h'" in error


@pytest.mark.parametrize("shape", [(2, 1, 64), (1, 2, 1, 64), (8, 2, 1, 64), (16, 1, 64)])
def test_a_state_whose_first_axis_is_fixed(tmp_path, shape):
    state = draw(*shape)
    for folder in (
        put(tmp_path / "by_name", x=ROWS, h=state),
        put(tmp_path / "by_file", a={"x": ROWS, "h": state}),
    ):
        found = feeds(folder, X, STATE)
        stacked = state.reshape(-1, 2, 1, 64)
        for at, feed in enumerate(found):
            np.testing.assert_array_equal(feed["h"], stacked[at % len(stacked)])
        assert len(found) == 8


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_state_of_another_size_is_refused_with_its_shape(tmp_path, size):
    folder = put(tmp_path, a={"x": ROWS, "h": np.zeros((size, 1, 64), "float32")})
    error = refused(folder, X, STATE)
    assert "a.npz" in error
    assert f"[{size}, 1, 64]" in error


@pytest.mark.parametrize("given", [{"h": draw(1, 2, 1, 64)}, {"h/0": draw(2, 1, 64)}], ids=list)
def test_a_state_whose_first_axis_is_open(tmp_path, given):
    folder = put(tmp_path, a={"x": ROWS, **given}, b={"x": ROWS[:3], **given})
    assert shapes(folder, "h", X, OPEN) == [(2, 1, 64)] * 11


def test_a_state_that_reads_like_two_samples_is_refused_with_a_way_out(tmp_path):
    folder = put(tmp_path, a={"x": ROWS, "h": np.zeros((2, 1, 64), "float32")})
    assert "'h': 2" in refused(folder, X, OPEN)


def test_empty_caches(tmp_path):
    empty = np.zeros((1, 3, 0, 4), "float32")
    folder = put(tmp_path, a={"x": ROWS, "past": empty}, b={"x": ROWS[:1], "past/0": empty})
    assert shapes(folder, "past", X, CACHE) == [(1, 3, 0, 4)] * 9


def test_a_cache_whose_first_axis_is_empty_holds_for_all_samples(tmp_path):
    """As the documentation says of what is given once: it cannot be eight samples."""
    folder = put(tmp_path, a={"x": ROWS, "past": np.zeros((0, 4), "float32")})
    assert shapes(folder, "past", X, port("past", "past", 4)) == [(0, 4)] * 8


def test_caches_of_several_lengths(tmp_path):
    caches = {f"past/{at}": draw(1, 3, at, 4) for at in range(3)}
    folder = put(tmp_path, a={"x": ROWS[:3], **caches})
    assert shapes(folder, "past", X, CACHE) == [(1, 3, at, 4) for at in range(3)]


def test_a_model_with_a_rate_a_state_and_a_cache(tmp_path):
    proto = build(
        """g (float[N,96] x, float[2,1,64] h, float[B,3,P,4] past, int64 sr) => (float[N,32] y) {
            p = MatMul (x, W)  m = ReduceMean <keepdims=0> (h)  c = ReduceSum <keepdims=0> (past)
            f = Cast <to=1> (sr)  q = Add (p, m)  r = Add (q, c)  y = Div (r, f) }""",
        W=draw(96, 32),
    )
    given = {"h": draw(2, 1, 64), "past": np.zeros((1, 3, 0, 4), "float32"), "sr": np.int64(3)}
    by_name = put(tmp_path / "by_name", x=draw(6, 96), **given)
    by_file = put(
        tmp_path / "by_file", a={"x": draw(2, 96), **given}, b={"x": draw(4, 96), **given}
    )
    for folder in (by_name, by_file):
        report = quick(proto, "quant(bits=8)", folder).report
        assert (report.fitted, report.judged) == (3, 3)


def test_files_without_samples_are_named(tmp_path):
    folder = put(tmp_path, a={"x": ROWS}, b={"x": ROWS[:0]})
    error = refused(folder)
    assert "b.npz" in error
    assert "no samples" in error
