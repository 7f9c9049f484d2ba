"""Whole or in pieces: what a model is run by."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from onnx_compress.ir.graph import files
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import decoded_bytes
from onnx_compress.ir.runtime.limits import whole_bytes
from onnx_compress.ir.runtime.pieces import Pieces
from onnx_compress.ir.runtime.session import Feed, Port, Session


class Runner(Protocol):
    """What runs a model: a Session, or Pieces."""

    inputs: list[Port]
    outputs: list[Port]
    threads: int

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in their order."""

    def run_all(self, feeds: Sequence[Feed]) -> Iterator[list[Any]]:
        """Outputs sample by sample, in order."""

    def executed(self) -> list[tuple[str, str]]:
        """Operator and name of every node that was run; needs a `profile`."""


def fits(model: Model) -> bool:
    """Whether a model is small enough to be run whole."""
    return decoded_bytes(model) <= whole_bytes()


def open_session(
    model: Model | Path,
    threads: int = 1,
    optimize: bool = True,
    profile: Path | None = None,
    simulated: bool = False,
) -> Runner:
    """A session, or pieces where the weights take more than `limits.memory` allows.

    `simulated`: see `Session`; pieces are then run as they are written. A file is loaded by the
    runtime in any case, but then with its weights left on disk. Raises InvalidError, LoadError.
    """
    read = files.load(model) if isinstance(model, Path) else model
    if fits(read):
        return Session(model, threads, optimize, profile, simulated=simulated)
    if isinstance(model, Path) and files.is_external(read):
        Session(model, mapped=True)
    return Pieces(read, threads, optimize and not simulated, profile)
