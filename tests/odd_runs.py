"""Runs of the command on odd models: what came out, what was refused and why."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnx_compress.cli import main

from models_by_text import (
    Feed,
    run,
)

QUANT = ("--passes", "quant(bits=8)")
ONE_LAYER = "g (float[N,96] x) => (float[N,96] y) { y = MatMul (x, W) }"
TWO_LAYERS = "g (float[N,96] x) => (float[N,96] z) { y = MatMul (x, W)  z = MatMul (y, V) }"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compressed(proto: ModelProto, *arguments: str) -> tuple[ModelProto, dict[str, Any]]:
    """The result and its report."""
    Path("in.onnx").write_bytes(proto.SerializeToString())
    assert main(["in.onnx", "out.onnx", "--quiet", "--report", "r.json", *arguments]) == 0
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert {path.name for path in Path.cwd().iterdir()} <= {
        "in.onnx",
        "out.onnx",
        "r.json",
        "d.npz",
    }
    return onnx.load("out.onnx"), report


def refused(capsys, code: int, proto: ModelProto, *arguments: str) -> tuple[str, str]:
    """Error and hint; the code is as given, and nothing is written."""
    Path("in.onnx").write_bytes(proto.SerializeToString())
    before = {path: path.read_bytes() for path in Path.cwd().iterdir()}
    assert main(["in.onnx", "out.onnx", *arguments]) == code
    assert {path: path.read_bytes() for path in Path.cwd().iterdir()} == before
    printed = capsys.readouterr()
    assert printed.out == ""
    error, hint = printed.err.splitlines()
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    assert "README" not in hint  # that is what is said where nobody thought of a hint
    return error, hint


def near(before: ModelProto, after: ModelProto, feed: Feed, allowed: float = 0.02) -> None:
    """Names, types and open sizes stay, and numbers are those of the original."""
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    for r, y in zip(run(before, feed), run(after, feed), strict=True):
        assert y.shape == r.shape
        assert np.array_equal(np.isnan(y), np.isnan(r))
        known = np.isfinite(r)
        assert np.linalg.norm(y[known] - r[known]) <= allowed * np.linalg.norm(r[known])


def left_alone(report: dict[str, Any]) -> str:
    return json.dumps([stage["skipped"] for stage in report["stages"]])
