"""Files of calibration data, and what is read from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_compress import calibration
from onnx_compress.ir.errors import CalibrationError
from onnx_compress.ir.runtime import Feed, Port

from models_by_text import two_layers

SOURCE = two_layers()
ROWS = np.arange(8 * 96, dtype="float32").reshape(8, 96)


def port(name: str, *shape: int | str | None, dtype: str = "float32") -> Port:
    return Port(name, np.dtype(dtype), shape)


X = port("x", "N", 96)


def put(folder: Path, **files: Any) -> Path:
    """Files in a folder: an array is a .npy, arrays by name a .npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, dict):
            np.savez(folder / f"{name}.npz", **content)
        else:
            np.save(folder / f"{name}.npy", content)
    return folder


def feeds(source: Any, *ports: Port) -> list[Feed]:
    return list(calibration.read(source, ports or (X,)).feeds)


def shapes(source: Any, name: str, *ports: Port) -> list[tuple[int, ...]]:
    return [feed[name].shape for feed in feeds(source, *ports)]


def refused(source: Any, *ports: Port) -> str:
    with pytest.raises(CalibrationError) as caught:
        calibration.read(source, ports or (X,))
    assert caught.value.hint
    return str(caught.value)
