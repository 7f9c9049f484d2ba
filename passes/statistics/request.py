"""What can be asked for: a request names values, an accumulator sums over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap

_WINDOWS = 512  # of a convolution at least


@dataclass(frozen=True)
class Look:
    """How to look. `windows`: how many of a convolution are enough, over all samples, as a multiple
    of the columns of the weight; None for all of them. `widest`: columns of the largest block of a
    moment. `samples`: how many there are, which `collect` counts. `work`: products that more
    windows may take for a moment, over all samples: of few columns many windows cost nothing;
    `most`: up to how many, as a multiple of the columns."""

    windows: float | None = 4.0
    widest: int = 8192
    samples: int = 1
    work: int = 0
    most: float = inf

    def limit(self, columns: int) -> int | None:
        """How many windows of one sample are enough."""
        if self.windows is None:
            return None
        more = min(self.work // columns**2, self.most * columns)
        enough = max(_WINDOWS, int(self.windows * columns), int(more))
        return -(-enough // self.samples)


class Accumulator(Protocol):
    """Sums over samples. Equal requests share one: `key` tells what is equal."""

    @property
    def taps(self) -> Sequence[Tap]:
        """What it has to see."""

    @property
    def nbytes(self) -> int:
        """Bytes of its sums."""

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        """One run. `kept`: which positions count, [batch, steps] of bool."""

    def result(self) -> Any:
        """What was asked for."""


class Request(Protocol):
    """Hashable; made by whoever needs it."""

    def key(self) -> Any:
        """Equal for requests with the same answer."""

    def start(self, look: Look) -> Accumulator:
        """An accumulator at zero."""
