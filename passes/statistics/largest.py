"""Largest: the largest magnitude of each feature of a value, along its last axis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.statistics.request import Look


@dataclass(frozen=True)
class Largest:
    """Asks for max |x| over all but the last axis, [C]; NaN and infinities count as zero."""

    tap: Tap

    def key(self) -> Any:
        """One for each value."""
        value = (self.tap.node.outputs if self.tap.made else self.tap.node.inputs)[self.tap.slot]
        return (type(self), value)

    def start(self, look: Look) -> "_Largest":
        """At zero."""
        return _Largest(self.tap)


class _Largest:
    nbytes = 0

    def __init__(self, tap: Tap) -> None:
        self.taps = [tap]
        self._found: Array = np.zeros(0)

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        x = np.asarray(seen[self.taps[0]])
        if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape:
            x = x[kept]
        x = np.abs(x.reshape(-1, x.shape[-1]))
        top = np.where(np.isfinite(x), x, 0).max(0, initial=0)
        self._found = np.maximum(self._found, top) if self._found.size else top

    def result(self) -> Array:
        return self._found
