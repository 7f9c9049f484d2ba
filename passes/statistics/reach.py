"""Reach: from where to where each feature of a value goes, along its last axis, and its power."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.statistics.request import Look


@dataclass(frozen=True)
class Ends:
    """Of each feature [C]: the least and the largest number, E[x^2]; `rows`: of how many."""

    low: Array
    high: Array
    square: Array
    rows: int


@dataclass(frozen=True)
class Reach:
    """Asks for Ends over all but the last axis; NaN and infinities count as zero."""

    tap: Tap
    axis: int = -1

    def key(self) -> Any:
        """One for each value."""
        return (type(self), self.tap.value, self.axis)

    def start(self, look: Look) -> "_Reach":
        """At zero."""
        return _Reach(self.tap, self.axis)


class _Reach:
    nbytes = 0

    def __init__(self, tap: Tap, axis: int) -> None:
        self.taps, self._axis = [tap], axis
        self._found: Ends | None = None

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        x = np.asarray(seen[self.taps[0]])
        if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape:
            x = x[kept]
        x = np.moveaxis(x, self._axis, -1)
        x = x.reshape(-1, x.shape[-1])
        if not np.isfinite(x).all():
            x = np.where(np.isfinite(x), x, 0)
        if not len(x):
            return
        low, high = x.min(0).astype(np.float64), x.max(0).astype(np.float64)
        total = np.einsum("rc,rc->c", x, x, dtype=np.float64)
        if self._found is None:
            self._found = Ends(low, high, total, len(x))
        else:
            was = self._found
            ends = np.minimum(was.low, low), np.maximum(was.high, high)
            self._found = Ends(*ends, was.square + total, was.rows + len(x))

    def result(self) -> Ends:
        if self._found is None:
            return Ends(np.zeros(0), np.zeros(0), np.zeros(0), 0)
        found = self._found
        return Ends(found.low, found.high, found.square / found.rows, found.rows)
