"""Values that wait between the pieces of a model: small ones in memory, large ones in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph.elements import Array, element_of
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.graph.wire import Blob
from onnx_compress.ir.runtime.session import Feed

_SMALL = 1 << 16  # bytes of an activation that waits in memory


@dataclass(frozen=True)
class _Spilled:
    """An array in the scratch file."""

    blob: Blob
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Activations:
    """By value and sample, what the model was given and what pieces made of it."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._given = feeds
        self._scratch = Storage()
        self._made: dict[tuple[Value, int], Any] = {}

    def __contains__(self, value: Value) -> bool:
        return (value, 0) in self._made or value.name in self._given[0]

    def put(self, value: Value, sample: int, array: Any) -> None:
        """Keep what a piece made."""
        if isinstance(array, np.ndarray) and array.nbytes > _SMALL and array.dtype != object:
            flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            array = _Spilled(self._scratch.append(flat), array.dtype, array.shape)
        self._made[value, sample] = array

    def get(self, value: Value, sample: int) -> Any:
        """What was made or given."""
        if (value, sample) not in self._made:
            return self._given[sample][value.name]
        found = self._made[value, sample]
        if not isinstance(found, _Spilled):
            return found
        return self._scratch.read(found.blob).view(found.dtype).reshape(found.shape)

    def drop(self, values: Sequence[Value]) -> None:
        """Forget values that no later piece needs."""
        for sample in range(len(self._given)):
            for value in values:
                self._made.pop((value, sample), None)

    def element(self, value: Value) -> int:
        """Element type of a value that goes into a piece. Raises UnsupportedError."""
        found = self._made[value, 0] if (value, 0) in self._made else self.get(value, 0)
        if not isinstance(found, np.ndarray | _Spilled):
            hint = "give more --memory, so that it is run whole"
            raise UnsupportedError("no tensor, but it goes from piece to piece", hint, value.name)
        return element_of(np.dtype(object) if found.dtype.kind in "SU" else found.dtype)

    def feeds(self, values: Sequence[Value]) -> Sequence[Feed]:
        """What a piece that reads these values is given, sample by sample, when it is asked for."""
        return _Feeds(self, values, len(self._given))


class _Feeds(Sequence[Feed]):
    def __init__(self, kept: Activations, values: Sequence[Value], samples: int) -> None:
        self._kept, self._values, self._samples = kept, values, samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[sample] for sample in range(*at.indices(self._samples))]
        if at >= self._samples:
            raise IndexError(at)
        feed: dict[str, Array] = {v.name: self._kept.get(v, at) for v in self._values}
        return feed
