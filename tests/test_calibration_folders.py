"""Data in folders: several files, states and scalars beside them, and errors that say where."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnx_compress import calibration
from onnx_compress.cli import main
from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.runtime import Feed, Port

from models_by_text import build, draw, embedding, quick, two_layers

SOURCE = two_layers()
ROWS = np.arange(8 * 96, dtype="float32").reshape(8, 96)


def port(name: str, *shape: int | str | None, dtype: str = "float32") -> Port:
    return Port(name, np.dtype(dtype), shape)


X = port("x", "N", 96)


def put(folder: Path, **files: Any) -> Path:
    """Files in a folder: an array is a .npy, arrays by name a .npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, dict):
            np.savez(folder / f"{name}.npz", **content)
        else:
            np.save(folder / f"{name}.npy", content)
    return folder


def feeds(source: Any, *ports: Port) -> list[Feed]:
    return list(calibration.read(source, ports or (X,)).feeds)


def rows(source: Any, *ports: Port) -> list[int]:
    """Which rows of ROWS came out, in this order."""
    return [int(feed["x"][0, 0]) // 96 for feed in feeds(source, *ports)]


def shapes(source: Any, name: str, *ports: Port) -> list[tuple[int, ...]]:
    return [feed[name].shape for feed in feeds(source, *ports)]


def refused(source: Any, *ports: Port) -> str:
    with pytest.raises(CalibrationError) as caught:
        calibration.read(source, ports or (X,))
    assert caught.value.hint
    return str(caught.value)


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
    assert samples.every_second(1).labels == [8, 0]
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


# ------------------------------------------------------------------- scalars, states and caches

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


# ------------------------------------------------------------------------------- at the command

BAD_ROW = np.where(np.arange(8)[:, None] == 5, np.nan, ROWS).astype("float32")
# what is in the second of two files -> words of the error
BAD = {
    "type": ({"x": ROWS.astype("float64")}, ["x", "sample 0", "float64"]),
    "width": ({"x": ROWS[:, :95]}, ["x", "sample 0", "[1, 95]"]),
    "rank": ({"x": ROWS.reshape(8, 2, 48, 1)}, ["x", "[8, 2, 48, 1]"]),
    "NaN": ({"x": BAD_ROW}, ["x", "sample 5", "NaN"]),
    "one of numbered": ({"x/0": ROWS[:1], "x/1": BAD_ROW[5:6]}, ["x", "sample 1", "NaN"]),
    "another name": ({"z": ROWS}, ["'z'"]),
    "a name too many": ({"x": ROWS, "z": ROWS}, ["'z'"]),
    "nothing": ({}, ["no samples"]),
    "objects": ({"x": np.array([{}, None], dtype=object)}, ["no plain arrays"]),
}


def command(tmp_path: Path, proto: ModelProto, folder: Path, capsys: Any) -> list[str]:
    """The error lines of a run that is refused for its data."""
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    arguments = [str(tmp_path / name) for name in ("in.onnx", "out.onnx")]
    assert main([*arguments, "--calib", str(folder)]) == 5
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not (tmp_path / "out.onnx").exists()
    error, hint = printed.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    return [error, hint]


@pytest.mark.parametrize("name", BAD)
def test_the_command_names_file_input_and_sample(tmp_path, capsys, name):
    content, words = BAD[name]
    folder = put(tmp_path / "data", a={"x": ROWS}, b=content)
    error, _ = command(tmp_path, SOURCE, folder, capsys)
    for word in [str(folder / "b.npz"), *words]:
        assert word in error


@pytest.mark.parametrize("array", [ROWS.astype("float64"), BAD_ROW, ROWS[:3]], ids=list("abc"))
def test_the_command_names_the_file_of_one_input(tmp_path, capsys, array):
    proto = build(
        "g (float[N,96] x, float[N,96] z) => (float[N,32] y) { s = Add (x, z)  y = MatMul (s, W) }",
        W=draw(96, 32),
    )
    folder = put(tmp_path / "data", x=ROWS, z=array)
    error, _ = command(tmp_path, proto, folder, capsys)
    assert str(folder) in error
    assert "z" in error.replace(str(folder), "")


def test_the_command_names_the_folder_where_an_input_has_no_file(tmp_path, capsys):
    proto = build(
        "g (float[N,96] x, float[N,96] z) => (float[N,96] y) { y = Add (x, z) }",
    )
    folder = put(tmp_path / "data", x=ROWS)
    error, _ = command(tmp_path, proto, folder, capsys)
    assert str(folder) in error
    assert "'z'" in error


def test_a_sample_that_the_model_refuses_is_named_by_its_place_in_the_data(tmp_path, capsys):
    """Not by its place among those that are judged."""
    proto, _ = embedding()
    numbers = np.zeros((8, 3, 5), "int64")
    numbers[5] = 200  # the table has 200 rows
    error, _ = command(tmp_path, proto, put(tmp_path / "data", a={"i": numbers}), capsys)
    assert "sample 5" in error


def test_one_sample_in_all_files_is_too_few(tmp_path, capsys):
    folder = put(tmp_path / "data", a={"x": ROWS[:1]})
    error, _ = command(tmp_path, SOURCE, folder, capsys)
    assert "one sample" in error
    put(folder, b={"x": ROWS[1:2]})
    arguments = [str(tmp_path / name) for name in ("in.onnx", "out.onnx")]
    assert main([*arguments, "--calib", str(folder), "--quiet", "--passes", "quant(bits=8)"]) == 0
