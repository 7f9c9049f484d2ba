"""Two versions of a model, the folders they are written to, and the command that does it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto

from onnx_compress.ir.graph import from_proto, load, save

from graphs import product, weight

Done = tuple[int, list[str], str]


def version(number: int) -> ModelProto:
    return product(w=weight(10 * number + 1), v=weight(10 * number + 2))


def which(path: Path) -> int:
    """The version that a model file holds, every weight of it."""
    model = load(path)
    held = {value.name: model.constant(value) for value in model.graph.initializers}
    for number in (0, 1):
        if np.array_equal(held["w"], weight(10 * number + 1)):
            np.testing.assert_array_equal(held["v"], weight(10 * number + 2))
            return number
    raise AssertionError("neither the old model nor the new one")


def prepare(folder: Path, external: bool = False) -> None:
    """An input, and an older result in the place of the new one."""
    folder.mkdir(exist_ok=True)
    save(from_proto(version(0)), folder / "in.onnx", external)
    save(from_proto(version(1)), folder / "out.onnx", external)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder, hidden ones too, and folders by their names."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
    }


def assert_tidy(folder: Path, kind: str) -> None:
    """One model, and one file of data if it has them."""
    found = names(folder)
    assert found[0] == "m.onnx"
    assert len(found) == 1 + (kind == "external"), found


def command(
    folder: Path, *arguments: str, before: Callable[[], None] | None = None, **environment: str
) -> Done:
    """Run the command in a folder; gives its exit code, its errors and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "onnx_compress", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        preexec_fn=before,
    )
    return done.returncode, done.stderr.splitlines(), done.stdout


def assert_refused(done: Done) -> None:
    """Exit code 7 and two lines."""
    code, errors, printed = done
    assert code == 7, errors
    assert len(errors) == 2
    assert errors[0].startswith("error: ")
    assert errors[1].startswith("hint:  ")
    assert printed == ""
