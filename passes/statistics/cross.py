"""CrossMoment: E[x x'T] between a model and a changed one, of the inputs of the same weight.

W' = W E[x x'T] E[x' x'T]^-1        makes up in a weight for what was changed before it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights.weight import Use
from onnx_compress.passes.statistics.moment import rows, taps
from onnx_compress.passes.statistics.request import Look

_ROWS = 256  # of a block, as in `gram`


@dataclass(frozen=True, eq=False)
class CrossMoment:
    """Asks for C = E[x x'T], [groups, K, K'], float64: x of `reference`, a use in another model.

    Both see the same samples, in the same order, and the same windows.
    """

    use: Use
    model: Model
    reference: Use

    def key(self) -> Any:
        """Each has its own."""
        return self

    def start(self, look: Look) -> "_Cross":
        """At zero."""
        return _Cross(self, look)


class _Cross:
    """Rows of both models wait for each other in blocks, which are multiplied at once."""

    def __init__(self, request: CrossMoment, look: Look) -> None:
        self.request, self.taps = request, taps(request.use)
        self.reference, self.model = taps(request.reference), request.model
        layout, other = request.use.layout, request.reference.layout
        # windows are chosen alike whatever became of the channels
        self._limit = look.limit(max(layout.columns, other.columns))
        self._sum = np.zeros((layout.groups, other.columns, layout.columns))
        self._blocks = [
            np.empty((layout.groups, _ROWS, columns), np.float32)
            for columns in (other.columns, layout.columns)
        ]
        self._rows, self._filled = 0, 0
        self.nbytes = self._sum.nbytes + sum(block.nbytes for block in self._blocks)

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        mine = rows(self.request.use, seen, kept, self._limit)
        theirs = rows(self.request.reference, seen, kept, self._limit)
        for x, y in zip(_pieces(theirs), _pieces(mine), strict=True):
            at, count = 0, y.shape[1]
            while at < count:
                taken = min(count - at, _ROWS - self._filled)
                place = slice(self._filled, self._filled + taken)
                for block, part in zip(self._blocks, (x, y), strict=True):
                    block[:, place] = part[:, at : at + taken]
                self._filled += taken
                at += taken
                if self._filled == _ROWS:
                    self._flush()
            self._rows += count

    def _flush(self) -> None:
        x, y = (block[:, : self._filled] for block in self._blocks)
        self._sum += x.transpose(0, 2, 1) @ y
        self._filled = 0

    def result(self) -> Array:
        if self._filled:
            self._flush()
        return self._sum / max(self._rows, 1)


def _pieces(found: Any) -> Any:
    """All rows of one run at once: pieces of two models may be cut at other places."""
    parts = list(found)
    return [np.concatenate(parts, axis=1)] if parts else []
