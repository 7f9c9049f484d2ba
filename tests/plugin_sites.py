"""Where other packages are installed for a test, and a model for their passes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnx_compress.cli import main
from onnx_compress.passes import registry

from models_by_text import build, draw

PLUGIN = Path(__file__).parent / "plugin"
RANK = 12


def low(rows: int, columns: int) -> np.ndarray:
    return draw(rows, RANK) @ draw(RANK, columns) / RANK


SOURCE = build(
    "g (float[N,96] x) => (float[N,80] y) { h = MatMul (x, W)  r = Relu (h)  y = MatMul (r, V) }",
    W=low(96, 96),
    V=low(96, 80),
)
FEED = {"x": draw(8, 96)}


@pytest.fixture(name="place")
def folder_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "in.onnx").write_bytes(SOURCE.SerializeToString())
    np.savez(folder / "data.npz", x=FEED["x"])
    monkeypatch.chdir(folder)
    return folder


def made(folder: Path) -> ModelProto:
    return onnx.load(folder / "out.onnx")


# ------------------------------------------------------------------------------ one from a wheel


def stages(folder: Path) -> dict[str, str | None]:
    """The passes of a report, and how they failed."""
    report = json.loads((folder / "report.json").read_text())
    return {stage["pass"]: stage["failure"] for stage in report["stages"]}


# -------------------------------------------------------------------- broken ones, in this process


class Site:
    """A folder of installed packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, module: str, text: str, group: str = "passes", **points: str) -> None:
        """A package of one module, with entry points."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{module}.py").write_text(text)
        about = self.folder / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {place}" for name, place in points.items()]
        text = "\n".join([f"[onnx_compress.{group}]", *lines])
        (about / "entry_points.txt").write_text(text)


@pytest.fixture(name="site")
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry._found.cache_clear()
    yield Site(tmp_path / "site")
    registry._found.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The two lines of a refusal."""
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    error, hint = printed.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    return f"{error}\n{hint}"


RUN = ("in.onnx", "out.onnx", "--calib", "data.npz", "--quiet", "--passes")
