"""Spread: the covariance of a value's channels, and the directions in which it varies most."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.solvers.parallel import one_thread
from onnx_compress.passes.statistics.gram import Gram, unpacked
from onnx_compress.passes.statistics.request import Look


@dataclass(frozen=True)
class Directions:
    """`variances` [C], falling, and as columns of `basis` [C, C] their directions; `mean` [C]."""

    variances: Array
    basis: Array
    mean: Array
    rows: int


@dataclass(frozen=True)
class Spread:
    """Asks for Directions of an output of a node; `axis`: its channels. float64, centred."""

    tap: Tap
    axis: int = -1

    def key(self) -> Any:
        """One for each value and axis."""
        return (type(self), self.tap, self.axis)

    def start(self, look: Look) -> "_Spread":
        """At zero."""
        return _Spread(self.tap, self.axis)


class _Spread:
    nbytes = 0

    def __init__(self, tap: Tap, axis: int) -> None:
        self.taps, self._axis = [tap], axis
        self._gram: Gram | None = None

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        x = np.asarray(seen[self.taps[0]])
        if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape:
            x = x[kept]
        x = np.moveaxis(x, self._axis, -1)
        if self._gram is None:
            self._gram = Gram(x.shape[-1], x.shape[-1])
        self._gram.add(x.reshape(-1, x.shape[-1]))

    def result(self) -> Directions:
        if self._gram is None:
            return Directions(np.zeros(0), np.zeros((0, 0)), np.zeros(0), 0)
        (packed,) = self._gram.packed()
        second = unpacked(packed)
        mean = self._gram.total / max(self._gram.rows, 1)
        with one_thread():
            variances, basis = np.linalg.eigh(second - np.outer(mean, mean))
        return Directions(variances[::-1], basis[:, ::-1], mean, self._gram.rows)
