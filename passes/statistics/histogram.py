"""Histogram: how often which numbers flow through a value.

Bins are 2^e wide and begin at multiples of that. Where numbers do not fit, e grows and pairs of
bins become one, so the counts do not depend on the order or the batches of samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.statistics.request import Look

_HALF = 4096  # bins on either side of zero
_SMALLEST = -140  # e of the first bins


@dataclass(frozen=True)
class Counts:
    """`counts[i]`: numbers in [edges[i], edges[i + 1]); `low`, `high`: the smallest and largest."""

    counts: Array
    edges: Array
    low: float
    high: float

    @property
    def middles(self) -> Array:
        """Of the bins."""
        return (self.edges[1:] + self.edges[:-1]) / 2


@dataclass(frozen=True)
class Histogram:
    """Asks for Counts of a value; NaN and infinities are left out."""

    tap: Tap

    def key(self) -> Any:
        """One for each value."""
        return (type(self), self.tap.value)

    def start(self, look: Look) -> "_Counts":
        """At zero."""
        return _Counts(self.tap)


class _Counts:
    nbytes = 2 * _HALF * 8

    def __init__(self, tap: Tap) -> None:
        self.taps = [tap]
        self._exponent = _SMALLEST
        self._counts = np.zeros(2 * _HALF, np.int64)
        self._low, self._high = np.inf, -np.inf

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        x = np.asarray(seen[self.taps[0]])
        if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape:
            x = x[kept]
        x = x.reshape(-1)
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not np.isfinite(high - low):
            x = x[np.isfinite(x)]
            low, high = float(x.min(initial=np.inf)), float(x.max(initial=-np.inf))
        self._low, self._high = min(self._low, low), max(self._high, high)
        widest = max(-self._low, self._high)
        while widest >= _HALF * 2.0**self._exponent:
            self._counts = self._merged()
            self._exponent += 1
        place = np.floor(x * self._factor(x.dtype)).astype(np.intp) + _HALF
        self._counts += np.bincount(np.maximum(place, 0), minlength=2 * _HALF)

    def _factor(self, dtype: np.dtype[Any]) -> Any:
        """Bins for 1, a power of two: in single precision where that is exact."""
        single = dtype == np.float32 and -120 < self._exponent <= 0
        return (np.float32 if single else np.float64)(2.0**-self._exponent)

    def _merged(self) -> Array:
        out = np.zeros_like(self._counts)
        pairs = self._counts.reshape(-1, 2).sum(1)
        out[_HALF // 2 : _HALF // 2 + _HALF] = pairs
        return out

    def result(self) -> Counts:
        edges = np.arange(-_HALF, _HALF + 1) * 2.0**self._exponent
        used = np.flatnonzero(self._counts)
        if not used.size:
            return Counts(np.zeros(1, np.int64), np.zeros(2), 0.0, 0.0)
        first, last = int(used[0]), int(used[-1])
        return Counts(
            self._counts[first : last + 1], edges[first : last + 2], self._low, self._high
        )
