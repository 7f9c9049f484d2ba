"""Targets of other packages: paths and resources, and broken ones."""

import json

import pytest

from onnx_compress.cli import main

from models_by_text import left
from plugin_sites import (
    PLUGIN,
    RUN,
    folder_with_a_model,  # noqa: F401
    installed,  # noqa: F401
    refused,
)

BOARD = (PLUGIN / "onnx_compress_lowrank" / "small-board.toml").read_text()
# what is in the module that the entry point names
TARGETS = {
    "a path": "from pathlib import Path\nBOARD = Path(__file__).with_name('board.toml')",
    "a text": "BOARD = __file__.replace('odd_one.py', 'board.toml')",
    "a resource": "from importlib.resources import files\nBOARD = files('shelf') / 'board.toml'",
}
NO_TARGETS = {
    "import": "import nothing_of_this_name",
    "syntax": "def :",
    "own error": "raise ValueError('two\\nlines')",
    "no such name": "",
    "a number": "BOARD = 5",
    "nothing": "BOARD = None",
    "no such file": "BOARD = '/nowhere/board.toml'",
    "a folder": "BOARD = '/'",
    "no TOML": "BOARD = __file__",
    "bytes": "BOARD = __file__.replace('odd_one.py', 'bytes.toml')",
    "another TOML": "BOARD = __file__.replace('odd_one.py', 'other.toml')",
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_may_be_a_path_or_a_resource(site, place, name):
    site.add("odd_one", TARGETS[name], "targets", my_board="odd_one:BOARD")
    (site.folder / "shelf").mkdir()
    for folder in ("", "shelf"):
        (site.folder / folder / "board.toml").write_text(BOARD)
    arguments = ("quant(bits=8)", "--target", "my-board", "--report", "report.json")
    assert main([*RUN, *arguments]) == 0
    assert json.loads((place / "report.json").read_text())["target"] == "my-board"


@pytest.mark.parametrize("name", NO_TARGETS)
def test_a_broken_target_is_refused_by_name_and_hides_no_other(site, place, capsys, name):
    site.add("odd_one", NO_TARGETS[name], "targets", my_board="odd_one:BOARD")
    (site.folder / "bytes.toml").write_bytes(b"\xff\xfe")
    (site.folder / "other.toml").write_text("measured = 1")
    told = refused(capsys, 2, *RUN, "quant(bits=8)", "--target", "my-board")
    assert "my-board" in told.splitlines()[0]
    assert "there are" not in told  # it is there, but broken
    assert left(place) == {"in.onnx", "data.npz"}
    assert main([*RUN, "quant(bits=8)", "--target", "avx2"]) == 0


def test_two_targets_of_one_name_are_refused(site, place, capsys):
    for module in ("odd_one", "odd_two"):
        site.add(module, TARGETS["a path"], "targets", my_board=f"{module}:BOARD")
    (site.folder / "board.toml").write_text(BOARD)
    assert "my-board" in refused(capsys, 2, *RUN, "quant(bits=8)", "--target", "my-board")
