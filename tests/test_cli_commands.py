"""passes, profile and help; wrong commands of any kind."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from onnx_compress.cli import main
from onnx_compress.cli.commands import COMMANDS
from onnx_compress.passes import Pipeline, registry
from onnx_compress.passes import target as targets

from places import names
from printed_commands import (
    EIGHT,
    fails,
    folder_with_a_model,  # noqa: F401
    shown,
)

# ---------------------------------------------------------------------------------------- bench


WRONG = """
2 inspect
2 inspect in.onnx --passes=
2 inspect in.onnx --passes nonsense
2 inspect in.onnx --largest many
2 inspect in.onnx --target nowhere
3 inspect nowhere.onnx
3 inspect .
5 inspect in.onnx --calib nowhere.npz
2 bench in.onnx
2 bench in.onnx in.onnx --threads 0
2 bench in.onnx in.onnx --threads 1000000
2 bench in.onnx in.onnx --seconds 0
2 bench in.onnx in.onnx --seconds nan
2 bench in.onnx in.onnx --seed=-1
3 bench in.onnx nowhere.onnx
3 bench . in.onnx
5 bench in.onnx in.onnx --data nowhere.npz
2 passes nonsense
2 passes quant(bits=8)
2 completion csh
2 completion
2 profile --seconds 0
2 profile --seconds nan
7 profile --out nowhere/m.toml
7 profile --out .
"""


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_a_wrong_command_is_two_lines(line, monkeypatch, capsys):
    monkeypatch.setattr("onnx_compress.profiling._ratios", lambda *_: pytest.fail("measured"))
    code, *arguments = line.split()
    fails(capsys, int(code), *arguments)
    assert names(Path()) == ["in.onnx"]


# ------------------------------------------------------------------------------ passes, profile


def test_passes_are_listed_and_explained(capsys):
    listed = shown(capsys, "passes")
    for name in registry.names():
        assert f"{name} " in listed
        (example,) = re.findall(r"--passes '(.*)'", shown(capsys, "passes", name))
        assert Pipeline.parse(example).passes[0].name == name
    explained = shown(capsys, "passes", "quant")
    for word in ("bits", "16 or 8", "activations", "int8"):
        assert word in explained


def test_a_profile_is_a_target(place, monkeypatch, capsys):
    monkeypatch.setattr("onnx_compress.profiling.SIZES", ((32, 32), (64, 64)))
    assert main(["profile", "--seconds", "0.001", "--out", "m.toml"]) == 0
    run = ["in.onnx", "out.onnx", *EIGHT, "--target", "m.toml", "--report", "r.json", "--quiet"]
    assert main(run) == 0
    assert json.loads((place / "r.json").read_text())["target"] == "m"
    printed = tomllib.loads(shown(capsys, "profile", "--seconds", "0.001"))
    forms = ("dynamic", "dequantize", "static")
    assert [len(printed["speed"][form]["product"]) for form in forms] == [2, 2, 2]
    for kept in ("convolutions", "operators", "reading"):
        assert getattr(targets.load("m.toml"), kept) == getattr(targets.host(), kept)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_there_for_every_command(name, capsys):
    printed = shown(capsys, *([name] if name else []), "--help")
    assert f"usage: onnx-compress {name}".strip() in printed
    assert "%(" not in printed
