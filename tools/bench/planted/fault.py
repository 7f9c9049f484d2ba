"""What all planted faults share: where they are planted, and whether they show."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.graph import Model, files
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.passes.samples import draw
from onnx_compress.passes.verify.quality import Tally

SHOWS = 1e-3  # relative change of an output that is more than rounding


@dataclass(frozen=True)
class Case:
    """A model, and what a pipeline made of it."""

    original: Path
    compressed: Path
    passes: str

    def __str__(self) -> str:
        return f"{self.original.stem} {self.passes}"


@dataclass(frozen=True)
class Outcome:
    """One fault: its kind, where it was planted, whether it was found there, and what was said."""

    kind: str
    where: str
    found: bool
    said: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.where}: {self.said}"


@lru_cache(maxsize=32)
def feeds(original: Path) -> tuple[Feed, ...]:
    """Inputs of a model, the same as verify draws."""
    model = files.load(original)
    return tuple(draw(model, open_session(model), 2, 0))


@lru_cache(maxsize=32)
def outputs(path: Path, original: Path) -> tuple[list[Any], ...]:
    """What a compressed model gives on them."""
    return tuple(open_session(files.load(path)).run_all(feeds(original)))


def shows(model: Model, case: Case) -> bool:
    """Whether a model's outputs are further from those of the sound one than rounding takes them.

    One that does not run does not count: the runtime has found it.
    """
    names = [value.name for value in model.outputs()]
    results = list(open_session(model).run_all(feeds(case.original)))
    return differ(names, outputs(case.compressed, case.original), results)


def differ(names: Sequence[str], one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether outputs differ by more than rounding."""
    tallies = [Tally(name) for name in names]
    for expected, got in zip(one, other, strict=True):
        for tally, r, y in zip(tallies, expected, got, strict=True):
            tally.add(r, y)
    return any(not tally.result().plain_error <= SHOWS for tally in tallies)


def swapped(array: Array, rng: Any, axis: int = -1) -> Array:
    """Two places along an axis exchanged: those of the largest and of the smallest number."""
    flat = np.moveaxis(np.abs(array.astype(np.float64)), axis, 0).reshape(array.shape[axis], -1)
    high, low = int(flat.max(1).argmax()), int(flat.max(1).argmin())
    out = np.moveaxis(array.copy(), axis, 0)
    out[[high, low]] = out[[low, high]]
    return np.ascontiguousarray(np.moveaxis(out, 0, axis))
