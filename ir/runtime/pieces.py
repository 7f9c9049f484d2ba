"""A model that is too large to be loaded at once, run piece by piece.

    nodes 0..k  --activations-->  nodes k+1..m  --activations--> ...

One piece is loaded at a time, and all samples go through it before the next one is. Activations
between pieces wait in memory where they are small, in a scratch file where they are not.
"""

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import elements
from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import Part, decoded_bytes, extract, partition
from onnx_compress.ir.graph.tensors import to_array
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.runtime.activations import Activations
from onnx_compress.ir.runtime.limits import piece_bytes
from onnx_compress.ir.runtime.session import DTYPES, Feed, Port, Session


class Pieces:
    """Runs like a Session; the model must not be changed meanwhile."""

    def __init__(
        self,
        model: Model,
        threads: int = 1,
        optimize: bool = True,
        profile: Path | None = None,
    ) -> None:
        """Cut the main graph into parts. Nothing is loaded yet."""
        self.model, self.threads, self.optimize, self.profile = model, threads, optimize, profile
        self.inputs = [declared_port(value) for value in model.inputs()]
        self.outputs = [declared_port(value) for value in model.outputs()]
        self._overridable = [v for v, _ in model.graph.inputs if v.tensor is not None]
        self._parts = partition(model, piece_bytes())
        self._ran: list[tuple[str, str]] = []

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in their order. Raises InvalidError with the runtime's own words."""
        return next(self.run_all([feed]))

    def run_all(self, feeds: Sequence[Feed]) -> Iterator[list[Any]]:
        """Outputs sample by sample, in order; the weights are read once."""
        if not feeds:
            return
        for feed in feeds:
            self._check(feed)
        kept = Activations(feeds)
        for part in self._parts:
            self._run_part(part, kept)
        for sample in range(len(feeds)):
            yield [self._output(value, kept, sample) for value in self.model.outputs()]

    def executed(self) -> list[tuple[str, str]]:
        """Operator and name of every node that was run; needs a `profile`."""
        return self._ran

    def _check(self, feed: Feed) -> None:
        """Raise InvalidError for what no session takes: each part sees a part of it alone."""
        for port in self.inputs:
            if port.name not in feed:
                raise InvalidError(f"it does not run: no {port.name!r} given")
            mismatch = port.mismatch(feed[port.name])
            if mismatch:
                raise InvalidError(f"it does not run: {mismatch} given", "", port.name)
        known = {port.name for port in self.inputs} | {value.name for value in self._overridable}
        for name in feed:
            if name not in known:
                raise InvalidError(f"it does not run: there is no input {name!r}")

    def _run_part(self, part: Part, kept: Activations) -> None:
        read = {value for node in part.nodes for value in (*node.inputs, *node.captures)}
        overridden = [v for v in self._overridable if v in read and v in kept]
        reads = (*part.reads, *overridden)
        piece = extract(self.model, part, {value: kept.element(value) for value in reads})
        # a single weight that is too large for any part is left in its file
        mapped = decoded_bytes(piece) > 2 * piece_bytes()
        session = Session(piece, self.threads, self.optimize, self.profile, mapped)
        for sample, results in enumerate(session.run_all(kept.feeds(reads))):
            for value, result in zip(part.gives, results, strict=True):
                kept.put(value, sample, result)
        kept.drop(part.last_reads)
        if self.profile is not None:
            self._ran += session.executed()
        del session
        _trim()

    def _output(self, value: Value, kept: Activations, sample: int) -> Any:
        if value in kept:
            return kept.get(value, sample)
        tensor = value.tensor or self.model.tensor(value)
        if tensor is None:
            raise InvalidError("nothing makes it", where=value.name)
        return to_array(tensor, self.model.storage)


def declared_port(value: Value) -> Port:
    """An input or output as the model declares it."""
    known = declared(value.info)
    if known is None:
        return Port(value.name, None, ())
    try:
        dtype: np.dtype[Any] | None = elements.np_dtype(known.element)
    except KeyError:
        dtype = None
    return Port(value.name, dtype if str(dtype) in DTYPES.values() else None, known.shape or ())


def _trim() -> None:
    """Give freed memory back to the system, where the C library can: it keeps it otherwise."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
