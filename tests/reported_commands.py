"""Runs of the command with their reports, in a folder with a model and data."""

import json
from pathlib import Path

import numpy as np
import pytest

from onnx_compress.cli import main

from graphs import product
from places import contents

EIGHT = ["--passes", "quant(bits=8)"]
FILES = ["data.npz", "in.onnx"]


def rows(count: int = 16) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 64)).astype("float32")


@pytest.fixture(autouse=True, name="place")
def folder_with_a_model(tmp_path, monkeypatch) -> Path:
    """A folder with a model and data, where the commands run."""
    (tmp_path / "in.onnx").write_bytes(product().SerializeToString())
    np.savez(tmp_path / "data.npz", x=rows())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reported(*arguments: str, code: int = 0) -> dict:
    """The report of a command that ends with this exit code."""
    assert main([*arguments, "--quiet", "--report", "report.json"]) == code
    return json.loads(Path("report.json").read_text())


def refused(arguments: list[str], capsys) -> None:
    """Exit code 2, two lines, and nothing is written."""
    before = contents(Path())
    assert main(arguments) == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error", "hint"
    ]  # fmt: skip
    assert contents(Path()) == before
