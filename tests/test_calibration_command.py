"""The command names what is wrong with calibration data: file, input and sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnx_compress.cli import main

from calibration_files import (
    ROWS,
    SOURCE,
    put,
)
from models_by_text import build, draw, embedding

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


@pytest.mark.parametrize("at", range(4))
def test_a_sample_that_the_model_refuses_is_named_by_its_place_in_the_data(tmp_path, capsys, at):
    """Not by its place among those that are judged, or fitted to."""
    proto, _ = embedding()
    numbers = np.zeros((8, 3, 5), "int64")
    numbers[at] = 200  # the table has 200 rows
    error, _ = command(tmp_path, proto, put(tmp_path / "data", a={"i": numbers}), capsys)
    assert f"sample {at}" in error


def test_one_sample_in_all_files_is_too_few(tmp_path, capsys):
    folder = put(tmp_path / "data", a={"x": ROWS[:1]})
    error, _ = command(tmp_path, SOURCE, folder, capsys)
    assert "one sample" in error
    put(folder, b={"x": ROWS[1:2]})
    arguments = [str(tmp_path / name) for name in ("in.onnx", "out.onnx")]
    assert main([*arguments, "--calib", str(folder), "--quiet", "--passes", "quant(bits=8)"]) == 0
