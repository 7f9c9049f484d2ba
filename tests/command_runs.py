"""A folder with a model and data, where the command runs."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from models_by_text import build, draw

FILES = {"in.onnx", "data.npz"}


def chain(**weights: np.ndarray) -> ModelProto:
    """A chain of products with these weights, 96 wide."""
    lines, at = [], "x"
    for number, name in enumerate(weights):
        out = "y" if number == len(weights) - 1 else f"h{number}"
        lines.append(f'{out} = MatMul ({at}, "{name}")')
        at = out
    return build(f"g (float[N,96] x) => (float[N,96] y) {{ {'  '.join(lines)} }}", **weights)


@pytest.fixture(autouse=True, name="place")
def folder_with_a_model(tmp_path, monkeypatch) -> Path:
    """A folder with a model and data, where the commands run."""
    (tmp_path / "in.onnx").write_bytes(chain(W=draw(96, 96), V=draw(96, 96)).SerializeToString())
    np.savez(tmp_path / "data.npz", x=draw(8, 96))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}
