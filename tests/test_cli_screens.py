"""What the command prints: odd names, pipes, screens of few characters."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx.parser import parse_model

from onnx_compress.cli import main

from command_runs import (
    chain,
    folder_with_a_model,  # noqa: F401
)
from models_by_text import draw, same_numbers_in_any_order  # noqa: F401

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "onnx_compress", *arguments],
        capture_output=True,
        env=os.environ | environment,
    )


# ----------------------------------------------------------------------------- odd names, pipes


@pytest.mark.parametrize(
    "name", ["[/x]", "[bold]W[/bold]", "a[0]", "[red]", "W\x1b[31m", "ä\u202e漢"]
)
def test_names_are_printed_as_they_are_or_harmless(place, capsys, name):
    odd = draw(96, 96)
    odd[0, 0] = np.nan
    proto = chain(W=draw(96, 96), V=odd)
    proto.graph.initializer[1].name = name
    proto.graph.node[1].input[1] = name
    proto.graph.output.extend(
        parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g () => (float[N,96] h0) {}'
        ).graph.output
    )
    (place / "in.onnx").write_bytes(proto.SerializeToString())
    assert main(["in.onnx", "out.onnx", "--passes", "quant(bits=8)"]) == 0
    printed = capsys.readouterr().out
    assert "NaN or infinity" in printed
    assert not CONTROL.search(printed)
    if name.isprintable() and name.isascii():
        assert name in printed


def test_names_of_files_are_printed_as_they_are(place, capsys):
    (place / "in.onnx").rename(place / "[bold]in.onnx")
    assert main(["[bold]in.onnx", "out[red].onnx", "--passes", "quant(bits=8)"]) == 0
    printed = capsys.readouterr().out
    assert "[bold]in.onnx" in printed
    assert "out[red].onnx" in printed


def test_errors_hold_no_control_characters(capsys):
    assert main(["in\x1b[31m\n\r.onnx", "out.onnx"]) == 3
    printed = capsys.readouterr().err
    assert not CONTROL.search(printed)
    assert len(printed.splitlines()) == 2


def test_a_pipe_gets_plain_text():
    done = command("in.onnx", "out.onnx", "--passes", "quant(bits=8)")
    assert done.returncode == 0
    printed = done.stdout.decode()
    assert "smaller" in printed
    assert not CONTROL.search(printed)
    assert done.stderr == b""
    assert max(len(line) for line in printed.splitlines()) <= 110
    assert printed.splitlines()[0] == "in.onnx -> out.onnx"
    assert all(line == line.rstrip() for line in printed.splitlines())


def test_the_installed_command_is_the_same(place):
    script = Path(sys.executable).with_name("onnx-compress")
    done = subprocess.run([script, "nowhere.onnx", "out.onnx"], capture_output=True)
    assert done.returncode == 3
    assert done.stdout == b""
    assert len(done.stderr.decode().splitlines()) == 2


def test_a_screen_of_ascii_is_enough(place):
    (place / "in.onnx").rename(place / "ä漢.onnx")
    done = command("ä漢.onnx", "out.onnx", "--passes", "quant(bits=8)", PYTHONIOENCODING="ascii")
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0
    assert (place / "out.onnx").exists()


def test_a_reader_that_goes_away_causes_no_traceback(place):
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_compress", "in.onnx", "out.onnx", "--passes", "quant(bits=8)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    with process:
        error = process.stderr.read()
    assert b"Traceback" not in error
    assert b"Exception ignored" not in error
    assert (place / "out.onnx").exists()
