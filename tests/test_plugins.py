"""Passes and targets of another package, installed from a wheel."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import ModelProto

from models_by_text import error, left
from plugin_sites import (
    FEED,
    PLUGIN,
    SOURCE,
    folder_with_a_model,  # noqa: F401
    made,
    stages,
)

Done = tuple[int, str, list[str]]


def ranks(model: ModelProto) -> list[int]:
    return sorted(t.dims[0] for t in model.graph.initializer if t.name.split(".")[1:2] == ["b"])


# ------------------------------------------------------------------------------ one from a wheel


def wheel(folder: Path) -> Path:
    """What a build makes of tests/plugin; a build would fetch its tools from the network."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())
    name, version = project["project"]["name"], project["project"]["version"]
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    groups = project["project"]["entry-points"].items()
    points = ["\n".join([f"[{g}]", *(f"{k} = {v}" for k, v in e.items())]) for g, e in groups]
    with zipfile.ZipFile(path, "w") as archive:
        for package in project["tool"]["setuptools"]["packages"]:
            for file in (PLUGIN / package).glob("*.*"):
                archive.write(file, f"{package}/{file.name}")
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{stem}.dist-info/METADATA", head)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{stem}.dist-info/WHEEL", tags)
        archive.writestr(f"{stem}.dist-info/entry_points.txt", "\n\n".join(points))
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return path


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """The command, where the plugin is installed."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target"]
    subprocess.run([*pip, str(folder), str(wheel(folder))], check=True, capture_output=True)

    def run(*arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "onnx_compress", *arguments],
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr.splitlines()

    return run


def test_a_plugin_is_listed_with_the_others_and_explained(command):
    code, printed, errors = command("passes")
    assert (code, errors) == (0, [])
    names = [line.split()[0] for line in printed.splitlines() if "  " in line]
    assert sorted(names) == ["fold", "lowrank", "prune", "quant"]
    assert "a matrix as the product of two thin ones" in printed
    code, printed, errors = command("passes", "lowrank")
    assert (code, errors) == (0, [])
    for words in (
        "MatMul(x, W)   ->   MatMul(MatMul(x, A), B)",
        "phase    factor",
        "share    float from 0.01 to 1, default chosen by the error",
        "share of the singular values to keep",
        "smallest int from 1",
        "default 64",
        "--passes 'lowrank(share=0.25)'",
    ):
        assert words in printed


def test_a_plugin_is_run_and_verified(command, place):
    passes = "lowrank(share=0.25, smallest=81),quant(bits=16)"
    arguments = ("in.onnx", "out.onnx", "--calib", "data.npz", "--report", "report.json")
    code, printed, errors = command(*arguments, "--passes", passes, "--target", "avx2")
    assert (code, errors) == (0, [])
    assert "lowrank(share=0.25, smallest=81)" in printed
    assert list(stages(place)) == ["fold", "lowrank(share=0.25, smallest=81)", "quant(bits=16)"]
    assert ranks(made(place)) == [24]
    assert error(SOURCE, made(place), FEED) < 1e-2
    assert left(place) == {"in.onnx", "data.npz", "out.onnx", "report.json"}


def test_a_plugin_without_numbers_takes_the_strongest_setting_that_holds(command, place):
    arguments = ("in.onnx", "out.onnx", "--calib", "data.npz", "--target", "avx2")
    code, printed, errors = command(*arguments, "--passes", "lowrank")
    assert (code, errors) == (0, [])
    assert "lowrank(share=0.25)" in printed
    assert "lowrank(share=0.1): error" in printed
    assert ranks(made(place)) == [16, 24]


def test_a_target_of_a_plugin_is_taken_by_name(command, place):
    arguments = ("in.onnx", "out.onnx", "--calib", "data.npz", "--report", "report.json", "--quiet")
    passes = ("--passes", "lowrank(share=0.25)", "--max-error", "1")
    assert command(*arguments, *passes, "--target", "small-board") == (0, "", [])
    assert json.loads((place / "report.json").read_text())["target"] == "small-board"
    assert ranks(made(place)) == [16, 32]
    code, _, (_, hint) = command(*arguments, "--target", "small-bord")
    assert code == 2
    assert "small-board" in hint
