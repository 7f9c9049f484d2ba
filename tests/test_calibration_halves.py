"""Which samples are fitted to, and which results are judged on."""

import numpy as np
import pytest

from onnx_compress import calibration
from onnx_compress.calibration import Samples, some
from onnx_compress.ir.errors import CalibrationError

from calibration_files import ROWS, X, put, refused


def samples(count: int, **given) -> Samples:
    return Samples([{"x": np.full(1, at)} for at in range(count)], **given)


def numbers(half: Samples) -> list[int]:
    assert [int(feed["x"][0]) for feed in half.feeds] == list(half.numbers)
    return list(half.numbers)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 32, 101])
def test_one_of_two_neighbours_goes_to_each(count):
    fit, judge = map(numbers, samples(count).halves())
    assert sorted(fit + judge) == list(range(count))
    assert len(fit) - len(judge) == count % 2
    assert all(len({2 * k, 2 * k + 1} & {*fit}) == 1 for k in range(count // 2))
    assert (fit, judge) == tuple(map(numbers, samples(count).halves()))


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_kinds_that_take_turns_are_in_both(period):
    for half in samples(32).halves():
        kinds = np.bincount(np.array(numbers(half)) % period, minlength=period)
        assert kinds.min() >= 16 / period * 0.5
    assert len({at % period for at in some(32, 16)}) == period


def test_labels_go_with_them():
    fit, judge = samples(8, labels=list(range(8))).halves()
    assert fit.labels == numbers(fit)
    assert judge.labels == numbers(judge)


@pytest.mark.parametrize("told", [[1, 1, 0, 0, 0], np.array([True, True, False, False, False])])
def test_who_says_which_is_obeyed(tmp_path, told):
    read = calibration.read(put(tmp_path, a={"x": ROWS[:5], "__fit__": told}), [X])
    fit, judge = read.halves()
    assert (list(fit.numbers), list(judge.numbers)) == ([0, 1], [2, 3, 4])


def test_who_says_which_in_several_files_is_obeyed(tmp_path):
    a, b = {"x": ROWS[:2], "__fit__": [0, 0]}, {"x": ROWS[2:5], "__fit__": [1, 0, 1]}
    fit, judge = calibration.read(put(tmp_path, a=a, b=b), [X]).halves()
    assert (list(fit.numbers), list(judge.numbers)) == ([2, 4], [0, 1, 3])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([1, 0], "2 numbers for 5 samples"),
        ([0.5] * 5, "numbers of float64"),
        ([[1]] * 5, "numbers of int64 [5, 1]"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, told, said):
    error = refused(put(tmp_path, a={"x": ROWS[:5], "__fit__": told}))
    assert said in str(error)


def test_some_files_that_say_which_and_some_that_do_not_are_refused(tmp_path):
    error = refused(put(tmp_path, a={"x": ROWS, "__fit__": [1] * len(ROWS)}, b={"x": ROWS}))
    assert "__fit__ in a.npz but not in all files" in str(error)


@pytest.mark.parametrize(("told", "lacking"), [([1, 1, 1], "judge"), ([0, 0, 0], "fit")])
def test_a_half_with_none_is_refused(told, lacking):
    with pytest.raises(CalibrationError, match=f"no sample to {lacking} on"):
        samples(3, fit=told).halves()


@pytest.mark.parametrize(("count", "most"), [(3, 16), (16, 16), (17, 16), (64, 16), (100, 7)])
def test_some_are_from_all_over(count, most):
    chosen = some(count, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    assert np.diff([-1, *chosen, count]).max() <= 2 * -(-count // most)
