"""How two models agree, output by output: beside the error, what an angle and the argmax say.

relative    |y - r| / |r|               cosine   y.r / |y||r|, of the worst sample
argmax      share of rows, along the last axis, whose largest element is the same
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.passes.verify.quality import OutputQuality, Tally


@dataclass(frozen=True)
class Agreement:
    """Of one output. `quality`: its error and sqnr_db. Where they mean nothing, the rest is None.

    `relative`: of integers and booleans, the share that differs.
    """

    quality: OutputQuality
    cosine: float | None
    argmax: float | None

    @property
    def name(self) -> str:
        """Of the output."""
        return self.quality.name

    @property
    def relative(self) -> float:
        """|y - r| / |r|, not centred."""
        return self.quality.plain_error


class Agreeing:
    """Sums over samples for one output."""

    def __init__(self, name: str) -> None:
        self._tally = Tally(name)
        self._cosine: float | None = None
        self._same = self._rows = 0

    def add(self, reference: Any, output: Any) -> None:
        """One sample."""
        self._tally.add(reference, output)
        if not isinstance(reference, np.ndarray) or reference.dtype.kind != "f":
            return
        if reference.shape != np.shape(output) or not reference.size:
            return
        one, other = reference.astype(np.float64), output.astype(np.float64)
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return
        size = float(np.linalg.norm(one) * np.linalg.norm(other))
        if size:
            cosine = float(np.vdot(one, other)) / size
            self._cosine = cosine if self._cosine is None else min(self._cosine, cosine)
        if one.ndim and one.shape[-1] > 1:
            same = one.argmax(-1) == other.argmax(-1)
            self._same += int(same.sum())
            self._rows += same.size

    def result(self) -> Agreement:
        """The figures over everything taken in."""
        argmax = self._same / self._rows if self._rows else None
        return Agreement(self._tally.result(), self._cosine, argmax)
