"""Calibration data in folders: which files are read, and which batches they may have."""

from typing import Any

import numpy as np
import pytest

from onnx_compress import calibration
from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.runtime import Port

from calibration_files import (
    ROWS,
    SOURCE,
    X,
    feeds,
    port,
    put,
    refused,
    shapes,
)
from models_by_text import build, draw, quick


def rows(source: Any, *ports: Port) -> list[int]:
    """Which rows of ROWS came out, in this order."""
    return [int(feed["x"][0, 0]) // 96 for feed in feeds(source, *ports)]


# ------------------------------------------------------------------------------------ what is read


def test_files_come_in_the_order_of_their_names(tmp_path):
    files = {"10": {"x": ROWS[:2]}, "b": {"x": ROWS[4:5]}, "a": ROWS[3:4], "2": {"x": ROWS[2:3]}}
    folder = put(tmp_path, **files)
    for place in (folder, str(folder), f"{folder}/"):
        assert rows(place) == [0, 1, 2, 3, 4]


def test_a_folder_gives_the_bytes_that_one_file_gives(tmp_path):
    x = draw(6, 96)
    whole = put(tmp_path / "whole", all={"x": x})
    parts = put(tmp_path / "parts", a={"x": x[:1]}, b=x[1:4], c={"x/0": x[4:5], "x/1": x[5:]})
    named = put(tmp_path / "named", x=x)
    results = [quick(SOURCE, "quant(bits=8)", place) for place in (whole, parts, named)]
    assert {result.report.judged for result in results} == {3}
    assert len({result.report.error for result in results}) == 1
    assert len({result.model.SerializeToString() for result in results}) == 1


def test_one_file_for_each_input(tmp_path):
    folder = put(tmp_path, x=ROWS, h=np.ones((8, 4), "float32"), __labels__=np.arange(8))
    samples = calibration.read(folder, [X, port("h", "N", 4)])
    assert [int(feed["x"][0, 0]) // 96 for feed in samples.feeds] == list(range(8))
    assert {feed["h"].shape for feed in samples.feeds} == {(1, 4)}
    assert samples.labels == list(range(8))


def test_labels_of_all_files_stay_with_their_samples(tmp_path):
    a, b = ({"x": ROWS[:3], "__labels__": [7, 8, 9]}, {"x": ROWS[3:5], "__labels__": [0, -1]})
    samples = calibration.read(put(tmp_path, a=a, b=b), [X])
    assert samples.labels == [7, 8, 9, 0, -1]
    assert rows(tmp_path) == [0, 1, 2, 3, 4]


def test_without_labels_there_are_none(tmp_path):
    assert calibration.read(put(tmp_path, a={"x": ROWS}, b={"x": ROWS}), [X]).labels is None


@pytest.mark.parametrize("labelled", ["a", "b"])
def test_labels_in_some_files_are_refused(tmp_path, labelled):
    files = {name: {"x": ROWS} for name in "abc"}
    files[labelled] = {"x": ROWS, "__labels__": np.arange(8)}
    error = refused(put(tmp_path, **files))
    assert str(tmp_path) in error
    assert f"{labelled}.npz" in error


def test_labels_that_do_not_fit_name_their_file(tmp_path):
    files = {"a": {"x": ROWS, "__labels__": np.arange(8)}, "b": {"x": ROWS, "__labels__": [1]}}
    error = refused(put(tmp_path, **files))
    assert "b.npz" in error
    assert "1 labels for 8 samples" in error


def test_labels_of_samples_with_several_rows_are_refused():
    """One label cannot be right for four rows, and an accuracy of that would mean nothing."""
    proto = build("g (float[4,96] x) => (float[4,5] y) { y = MatMul (x, W) }", W=draw(96, 5))
    data = {"x": draw(16, 96), "__labels__": np.zeros(4, "int64")}
    with pytest.raises(CalibrationError):
        quick(proto, "quant(bits=8)", data)


def test_other_files_and_folders_are_left_out(tmp_path):
    put(tmp_path, a={"x": ROWS[:2]})
    put(tmp_path / "more", b={"x": ROWS[2:]})
    for name in ("README.txt", ".hidden", "a.npz.bak", "npz", "picture.png"):
        (tmp_path / name).write_bytes(b"text")
    assert rows(tmp_path) == [0, 1]


@pytest.mark.parametrize("files", [[], ["README.txt", "a.npz.part"]], ids=["empty", "others"])
def test_a_folder_without_data_is_named(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    put(tmp_path / "sub", a={"x": ROWS})
    assert str(tmp_path) in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(50), b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["b.npz", "b.npy"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    put(tmp_path, a={"x": ROWS}, c={"x": ROWS})
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in refused(tmp_path)


def test_a_file_cut_short_and_a_link_to_nowhere_are_named(tmp_path):
    put(tmp_path, a={"x": ROWS}, b={"x": ROWS})
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-300])
    assert str(tmp_path / "b.npz") in refused(tmp_path)
    (tmp_path / "b.npz").unlink()
    (tmp_path / "b.npz").symlink_to(tmp_path / "nowhere.npz")
    assert str(tmp_path / "b.npz") in refused(tmp_path)


# ------------------------------------------------------------------------------ batches and numbers


def test_files_may_have_different_batches(tmp_path):
    wide = {"x": ROWS[:6].reshape(2, 3, 96)}
    folder = put(tmp_path, a={"x": ROWS[:2]}, b=wide, c={"x/0": ROWS[:5], "x/1": ROWS[:1]})
    assert shapes(folder, "x") == [(1, 96), (1, 96), (3, 96), (3, 96), (5, 96), (1, 96)]
    assert quick(SOURCE, "quant(bits=8)", folder).report.judged == 3


def test_a_fixed_batch_is_cut_in_its_size(tmp_path):
    folder = put(tmp_path, a={"x": ROWS[:4]}, b={"x": ROWS[4:]})
    assert rows(folder, port("x", 2, 96)) == [0, 2, 4, 6]
    assert shapes(folder, "x", port("x", 4, 96)) == [(4, 96), (4, 96)]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_rows_that_do_not_fill_a_fixed_batch_are_refused(tmp_path, count):
    """Rather than left out in silence."""
    folder = put(tmp_path, a={"x": ROWS[:4]}, b={"x": ROWS[:count]})
    error = refused(folder, port("x", 2, 96))
    assert "b.npz" in error
    assert "x" in error.replace("b.npz", "")
    assert f"[{count}, 96]" in error


def test_numbers_start_again_in_each_file_and_are_counted_not_spelled(tmp_path):
    many = {f"x/{at}": ROWS[at % 8 :][:1] for at in reversed(range(12))}
    folder = put(tmp_path, a=many, b={"x/0": ROWS[7:], "x/1": ROWS[6:7]})
    assert rows(folder) == [*range(8), 0, 1, 2, 3, 7, 6]


def test_numbers_with_a_gap_are_not_put_together_with_others(tmp_path):
    """x/2 is no partner of h/1."""
    folder = put(tmp_path, a={"x/0": ROWS[:1], "x/2": ROWS[2:3], "h/0": [[0.0]], "h/1": [[1.0]]})
    refused(folder, X, port("h", "N", 1, dtype="float64"))


@pytest.mark.parametrize(
    "data",
    [{"x/²": ROWS}, {"x": [[1.0, 2.0], [3.0]]}, [{"x": [[1], [2, 3]]}], {5: ROWS}],
    ids=["raised number", "ragged", "ragged sample", "no text"],
)
def test_odd_data_from_python_are_refused(data):
    refused(data)
