"""Frequency: how often each row of a table is looked up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights.weight import Use
from onnx_compress.passes.statistics.request import Look


@dataclass(frozen=True)
class Frequency:
    """Asks for counts [rows], int64, of a use that gathers. Raises UnsupportedError for others."""

    use: Use

    def key(self) -> Any:
        """One for each use."""
        return (type(self), self.use.node)

    def start(self, look: Look) -> "_Frequency":
        """At zero."""
        if not self.use.gathered:
            raise UnsupportedError(f"{self.use.node.op} looks nothing up", where=self.use.node.name)
        return _Frequency(self.use)


class _Frequency:
    def __init__(self, use: Use) -> None:
        self.taps = [Tap(use.node, 1)]
        self._counts = np.zeros(use.layout.rows, np.int64)
        self.nbytes = self._counts.nbytes

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        places = np.asarray(seen[self.taps[0]])
        if kept is not None and places.shape == kept.shape:
            places = places[kept]
        rows = len(self._counts)
        self._counts += np.bincount(places.reshape(-1) % rows, minlength=rows)

    def result(self) -> Array:
        return self._counts
