"""Covariance: how the channels of a value vary together.

    C = E[(x - m)(x - m)T], m = E[x]        x: [channels], one at each position

Of a value of very many channels the variances alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.passes.statistics.request import Look

_WIDEST = 4096  # channels
_POSITIONS = 2048  # of one run


@dataclass(frozen=True)
class Covariances:
    """`matrix` [C, C], or [C] of a value of very many channels; `mean` [C]; float64.

    `rows`: positions seen, in `samples` samples.
    """

    matrix: Array
    mean: Array
    rows: int
    samples: int

    @property
    def variances(self) -> Array:
        """[C]."""
        return self.matrix if self.matrix.ndim == 1 else np.diagonal(self.matrix)


@dataclass(frozen=True)
class Covariance:
    """Asks for Covariances; `axis`: the channels. Of each run at most 2048 positions are taken."""

    tap: Tap
    axis: int

    def key(self) -> Any:
        """One for each value and axis."""
        return (type(self), self.tap.value, self.axis)

    def start(self, look: Look) -> "_Covariance":
        """At zero."""
        return _Covariance(self.tap, self.axis)


class _Covariance:
    def __init__(self, tap: Tap, axis: int) -> None:
        self.taps: Sequence[Tap] = [tap]
        self._axis, self.nbytes = axis, _WIDEST * 64
        self._products: Array | None = None
        self._total: Array = np.zeros(0)
        self._rows = self._samples = 0

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        x = np.asarray(seen[self.taps[0]])
        if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape and self._axis != 1:
            x, axis = x[kept], self._axis - (1 if self._axis > 0 else 0)
        else:
            axis = self._axis
        x = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        if len(x) > _POSITIONS:
            chosen = np.random.default_rng(len(x)).choice(len(x), _POSITIONS, replace=False)
            x = x[np.sort(chosen)]
        x = x.astype(np.float64)
        wide = x.shape[1] > _WIDEST
        if self._products is None:
            self._products = np.zeros(x.shape[1] if wide else (x.shape[1], x.shape[1]))
            self._total = np.zeros(x.shape[1])
        self._products += (x * x).sum(0) if wide else x.T @ x
        self._total += x.sum(0)
        self._rows += len(x)
        self._samples += 1

    def result(self) -> Covariances:
        if self._products is None:
            return Covariances(np.zeros((0, 0)), np.zeros(0), 0, 0)
        mean = self._total / max(self._rows, 1)
        second = self._products / max(self._rows, 1)
        middle = mean * mean if second.ndim == 1 else np.outer(mean, mean)
        return Covariances(second - middle, mean, self._rows, self._samples)
