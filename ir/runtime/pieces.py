"""A model that is too large to be loaded at once, run piece by piece.

    nodes 0..k  --activations-->  nodes k+1..m  --activations--> ...

One piece is loaded at a time, and all samples go through it before the next one is. Activations
between pieces wait in memory where they are small, in a scratch file where they are not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph import tensors
from onnx_compress.ir.graph.inference import declared
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import Part, decoded_bytes, extract, partition
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.tensors import Array
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.graph.wire import Blob
from onnx_compress.ir.runtime.limits import piece_bytes
from onnx_compress.ir.runtime.session import Feed, Port, Session

_SMALL = 1 << 16  # bytes of an activation that waits in memory


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
        self.inputs = [_port(value) for value in model.inputs()]
        self.outputs = [_port(value) for value in model.outputs()]
        self._parts = partition(model, piece_bytes())
        self._ran: list[tuple[str, str]] = []

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in their order. Raises InvalidError with the runtime's own words."""
        return next(self.run_all([feed]))

    def run_all(self, feeds: Sequence[Feed]) -> Iterator[list[Any]]:
        """Outputs sample by sample, in order; the weights are read once."""
        names = {value.name for value in self.model.inputs()}
        for feed in feeds:
            if names - set(feed):
                raise InvalidError(f"it does not run: no {sorted(names - set(feed))[0]!r} given")
        kept = _Kept(feeds)
        for part in self._parts:
            self._run_part(part, kept, len(feeds))
        for sample in range(len(feeds)):
            yield [self._output(value, kept, sample) for value in self.model.outputs()]

    def executed(self) -> list[tuple[str, str]]:
        """Operator and name of every node that was run; needs a `profile`."""
        return self._ran

    def _run_part(self, part: Part, kept: "_Kept", samples: int) -> None:
        kinds = {value: kept.element(value) for value in part.reads}
        piece = extract(self.model, part, kinds)
        # a single weight that is too large for any part is left in its file
        mapped = decoded_bytes(piece) > 2 * piece_bytes()
        session = Session(piece, self.threads, self.optimize, self.profile, mapped)
        feeds = kept.feeds(part.reads, samples)
        for sample, results in enumerate(session.run_all(feeds)):
            for value, result in zip(part.gives, results, strict=True):
                kept.put(value, sample, result)
        kept.drop(part.last_reads)
        if self.profile is not None:
            self._ran += session.executed()

    def _output(self, value: Value, kept: "_Kept", sample: int) -> Any:
        if value in kept:
            return kept.get(value, sample)
        array = self.model.constant(value)
        return array if array is not None else kept.given(value, sample)


class _Kept:
    """Values between pieces, by sample."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._given = feeds
        self._scratch = Storage()
        self._at: dict[tuple[Value, int], Any] = {}

    def __contains__(self, value: Value) -> bool:
        return (value, 0) in self._at

    def put(self, value: Value, sample: int, array: Any) -> None:
        large = isinstance(array, np.ndarray) and array.nbytes > _SMALL and array.dtype != object
        if large:
            flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            array = _Spilled(self._scratch.append(flat), array.dtype, array.shape)
        self._at[value, sample] = array

    def get(self, value: Value, sample: int) -> Any:
        found = self._at[value, sample]
        if not isinstance(found, _Spilled):
            return found
        return self._scratch.read(found.blob).view(found.dtype).reshape(found.shape)

    def given(self, value: Value, sample: int) -> Array:
        return self._given[sample][value.name]

    def drop(self, values: Sequence[Value]) -> None:
        for sample in range(len(self._given)):
            for value in values:
                self._at.pop((value, sample), None)

    def element(self, value: Value) -> int:
        """Element type of a value that goes into a piece."""
        found = self._at.get((value, 0))
        if found is None:
            found = np.asarray(self.given(value, 0))
        if not isinstance(found, np.ndarray | _Spilled):
            hint = "give more --memory, so that it is run whole"
            raise UnsupportedError("no tensor, but it goes from piece to piece", hint, value.name)
        return tensors.element_of(found.dtype)

    def feeds(self, values: Sequence[Value], samples: int) -> Sequence[Feed]:
        return _Feeds(self, values, samples)


class _Feeds(Sequence[Feed]):
    """Feeds of one piece, read when they are asked for."""

    def __init__(self, kept: _Kept, values: Sequence[Value], samples: int) -> None:
        self._kept, self._values, self._samples = kept, values, samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[sample] for sample in range(*at.indices(self._samples))]
        if at >= self._samples:
            raise IndexError(at)
        kept = self._kept
        return {
            value.name: kept.get(value, at) if value in kept else kept.given(value, at)
            for value in self._values
        }


class _Spilled:
    """An array in the scratch file."""

    def __init__(self, blob: Blob, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.blob, self.dtype, self.shape = blob, dtype, shape


def _port(value: Value) -> Port:
    known = declared(value.info)
    if known is None:
        return Port(value.name, None, ())
    try:
        dtype = tensors.np_dtype(known.element)
    except KeyError:
        return Port(value.name, None, ())
    return Port(value.name, dtype, known.shape or ())
