"""The command: exit codes, errors in two lines, and what an interrupt leaves behind."""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from onnx_compress import cli
from onnx_compress.cli import main
from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.runtime import Session

from command_runs import (
    FILES,
    folder_with_a_model,  # noqa: F401
    names,
)
from models_by_text import draw, same_numbers_in_any_order  # noqa: F401


def test_a_model_is_written_and_the_screen_says_how_it_went(place, capsys):
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--calib", "data.npz"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("in.onnx", "out.onnx", "fold", "quant", "size", "error", "speed", "memory", "dB"):
        assert word in printed.out
    ratio = (place / "in.onnx").stat().st_size / (place / "out.onnx").stat().st_size
    assert f"{ratio:.2f}x smaller" in printed.out
    assert "held-out" in printed.out
    onnx.checker.check_model("out.onnx", full_check=True)
    assert names(place) == FILES | {"out.onnx"}


def test_the_default_passes_are_run(place, capsys):
    assert main(["in.onnx", "out.onnx"]) == 0
    printed = capsys.readouterr().out
    assert "prune" in printed
    assert "quant" in printed
    assert "--calib" in printed
    assert (place / "out.onnx").stat().st_size < (place / "in.onnx").stat().st_size


def test_what_stays_as_it_is_gets_the_verdict_unchanged(place, capsys):
    proto = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Neg (x) }'
    )
    (place / "in.onnx").write_bytes(proto.SerializeToString())
    assert main(["in.onnx", "out.onnx"]) == 0
    assert "unchanged" in capsys.readouterr().out
    assert (place / "out.onnx").read_bytes() == (place / "in.onnx").read_bytes()


# ------------------------------------------------------------------------------------- errors


ERRORS = {
    "unknown pass": (["in.onnx", "out.onnx", "--passes", "qant"], 2),
    "wrong option": (["in.onnx", "out.onnx", "--passes", "quant(bits=7)"], 2),
    "wrong order": (["in.onnx", "out.onnx", "--passes", "quant,prune"], 2),
    "unknown target": (["in.onnx", "out.onnx", "--target", "nowhere"], 2),
    "no input": (["nowhere.onnx", "out.onnx"], 3),
    "no model": (["data.npz", "out.onnx"], 3),
    "a folder": (["folder", "out.onnx"], 3),
    "no data": (["in.onnx", "out.onnx", "--calib", "nowhere.npz"], 5),
    "wrong data": (["in.onnx", "out.onnx", "--calib", "wrong.npz"], 5),
    "damaged data": (["in.onnx", "out.onnx", "--calib", "in.onnx"], 5),
    "too bad": (["in.onnx", "out.onnx", "--passes", "quant(bits=8)", "--max-error", "1e-9"], 6),
    "no place": (["in.onnx", "nowhere/out.onnx"], 7),
    "a folder in the place": (["in.onnx", "folder"], 7),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_two_lines_and_a_documented_exit_code(name, place, capsys):
    (place / "folder").mkdir()
    np.savez(place / "wrong.npz", z=draw(8, 96))
    before = names(place)
    arguments, code = ERRORS[name]
    assert main(arguments) == code
    printed = capsys.readouterr()
    error, hint = printed.err.splitlines()
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    assert printed.out == ""
    assert names(place) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["in.onnx"],
        ["in.onnx", "out.onnx", "--nonsense"],
        ["in.onnx", "out.onnx", "--max-error", "x"],
        ["in.onnx", "out.onnx", "--threads", "x"],
    ],
)
def test_a_wrong_command_ends_with_two(arguments, place, capsys):
    assert main(arguments) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "onnx-compress" in hint
    assert names(place) == FILES


@pytest.mark.parametrize(
    ("option", "number"),
    [("--max-error", "nan"), ("--max-error", "-1"), ("--threads", "-3"), ("--seed", "-1")],
)
def test_numbers_out_of_bounds_are_wrong_commands(option, number, place, capsys):
    try:
        code = main(["in.onnx", "out.onnx", f"{option}={number}"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().err
    assert names(place) == FILES


def test_a_text_that_cannot_be_read_is_shown_with_a_caret(capsys):
    text = "prune,quant(bits=8"
    assert main(["in.onnx", "out.onnx", "--passes", text]) == 2
    first, shown, caret, hint = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert shown.strip() == text
    assert caret.strip() == "^"
    assert hint.startswith("hint:  ")


def test_a_pass_that_fails_ends_with_four(place, monkeypatch, capsys):
    def fails(*_: object, **__: object) -> None:
        raise VerificationError("inputs or outputs changed", where="quant")

    monkeypatch.setattr(cli.compress, "compress", fails)
    assert main(["in.onnx", "out.onnx"]) == 4
    assert capsys.readouterr().err.count("\n") == 2


def test_running_out_of_memory_is_no_traceback(monkeypatch, capsys):
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli.compress, "compress", fails)
    assert main(["in.onnx", "out.onnx"]) == 8
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("at", ["load", "run"])
def test_an_interrupt_ends_with_130_and_leaves_nothing(at, place, monkeypatch, capsys):
    """Where the written result is loaded back, and where it is run."""
    load, run = Session.__init__, Session.run
    staged: list[Session] = []

    def loading(self, model, *arguments, **options):
        load(self, model, *arguments, **options)
        if isinstance(model, Path):
            assert model.exists()
            staged.append(self)
            if at == "load":
                raise KeyboardInterrupt

    def running(self, feed):
        if self in staged:
            raise KeyboardInterrupt
        return run(self, feed)

    monkeypatch.setattr(Session, "__init__", loading)
    monkeypatch.setattr(Session, "run", running)
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)"]) == 130
    assert staged
    assert names(place) == FILES
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_interrupt_leaves_an_older_result_alone(place, monkeypatch):
    (place / "out.onnx").write_bytes(b"older")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)"]) == 130
    assert names(place) == FILES | {"out.onnx"}
    assert (place / "out.onnx").read_bytes() == b"older"
