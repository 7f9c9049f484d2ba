"""Answers on disk: what was asked of the same model about the same data is not collected again.

    FOLDER/DIGEST.npz     DIGEST: of the model, the data, how they are looked at, and the request

Files appear by rename, so a run that ends early leaves none that is half written. One that cannot
be read is collected anew.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.graph.digests import whole
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.staged import placed
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights.weight import Use
from onnx_compress.passes.statistics.covariance import Covariances
from onnx_compress.passes.statistics.histogram import Counts
from onnx_compress.passes.statistics.moment import Moments
from onnx_compress.passes.statistics.request import Look, Request
from onnx_compress.passes.statistics.spread import Directions

_VERSION = "2"  # of what is computed: raise it where equal requests get other answers
_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Counts, Covariances, Directions, Moments)
}


class Cache:
    """The answers about one model and its data in a folder, which is made if it is not there."""

    def __init__(
        self, folder: Path, model: Model, feeds: Sequence[Feed], look: Look, mask: str
    ) -> None:
        """Digests of model and data are taken once. Raises OutputError at the first `put`."""
        self.folder, self._models = folder, {model: whole(model)}
        self._places: dict[Model, dict[Any, int]] = {}
        found = hashlib.sha256(f"{_VERSION} {look} {mask}\n".encode())
        for feed in feeds:
            for name, array in sorted(feed.items()):
                given = np.asarray(array)
                found.update(f"{name} {given.dtype} {given.shape}\n".encode())
                found.update(
                    str(given.tolist()).encode() if given.dtype == object else given.tobytes()
                )
        self._data = found.hexdigest()
        self._model = model

    def get(self, request: Request) -> Any:
        """The answer, or None."""
        try:
            with np.load(self._file(request), allow_pickle=False) as stored:
                return _restored(dict(stored))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None

    def put(self, request: Request, answer: Any) -> None:
        """Write an answer. Raises OutputError."""
        file = self._file(request)
        self.folder.mkdir(parents=True, exist_ok=True)
        with placed(file) as hidden, open(hidden, "wb") as out:
            np.savez(out, **_flat(answer))

    def _file(self, request: Request) -> Path:
        text = f"{self._models[self._model]} {self._data} {type(request).__name__}"
        given: Any = request
        for field in dataclasses.fields(given):
            text += f" {self._text(getattr(given, field.name))}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"

    def _text(self, part: Any) -> str:
        if isinstance(part, Model):
            if part not in self._models:
                self._models[part] = whole(part)
            return self._models[part]
        if isinstance(part, np.ndarray):  # its repr leaves numbers out
            return f"{part.dtype} {part.shape} {hashlib.sha256(part.tobytes()).hexdigest()}"
        if isinstance(part, Use):
            return f"{self._place(part.node)}.{part.slot}"
        if isinstance(part, Tap):
            return f"{self._place(part.node)}.{part.slot}.{part.made}"
        return repr(part)

    def _place(self, node: Any) -> int:
        for model in self._models:
            if model not in self._places:
                self._places[model] = {each: at for at, each in enumerate(model.nodes())}
            if node in self._places[model]:
                return self._places[model][node]
        raise KeyError(node.name)


def _flat(answer: Any) -> dict[str, Any]:
    """Arrays by name; parts of a tuple as name.0, name.1, ..."""
    if isinstance(answer, np.ndarray):
        return {"array": answer}
    found: dict[str, Any] = {"kind": np.array(type(answer).__name__)}
    for field in dataclasses.fields(answer):
        value = getattr(answer, field.name)
        if isinstance(value, tuple):
            found |= {f"{field.name}.{at}": part for at, part in enumerate(value)}
        else:
            found[field.name] = value
    return found


def _restored(stored: Mapping[str, Any]) -> Any:
    if "array" in stored:
        return stored["array"]
    kind = _KINDS[str(stored["kind"])]
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in stored:
            array = stored[field.name]
            values[field.name] = array if array.ndim else array.item()
        else:
            parts = [name for name in stored if name.startswith(f"{field.name}.")]
            values[field.name] = tuple(stored[f"{field.name}.{at}"] for at in range(len(parts)))
    return kind(**values)
