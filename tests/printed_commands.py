"""What commands print that write nothing, and the two lines of those that fail."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from onnx import ModelProto

from onnx_compress.cli import main

from graphs import product
from places import contents

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EIGHT = ["--passes", "quant(bits=8)"]
TEXTS = (
    "(string[N] s, float[N,64] x) => (float y, string[N] t) { y = MatMul(x, w) t = Identity(s) }"
)


@pytest.fixture(autouse=True, name="place")
def folder_with_a_model(tmp_path, monkeypatch) -> Path:
    """A folder with a model, where the commands run; processes that measure loading are few."""
    (tmp_path / "in.onnx").write_bytes(product().SerializeToString())
    monkeypatch.setattr("onnx_compress.comparison._LOADS", 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys, *arguments: str) -> str:
    """What a command prints that ends well and writes nothing."""
    before = contents(Path())
    with contextlib.suppress(SystemExit):  # of --help
        assert main(list(arguments)) == 0
    assert contents(Path()) == before
    found = capsys.readouterr()
    assert found.err == ""
    assert not CONTROL.search(found.out)
    return found.out


def figures(capsys, *arguments: str) -> dict:
    """What it prints with --json, which must be nothing else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(shown(capsys, *arguments, "--json"), parse_constant=refuse)


def fails(capsys, code: int, *arguments: str) -> str:
    """Its two lines."""
    assert main(list(arguments)) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    return error + hint


def write(proto: ModelProto, name: str = "in.onnx") -> str:
    Path(name).write_bytes(proto.SerializeToString())
    return name
