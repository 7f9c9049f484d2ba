"""What can be asked for: a request names values, an accumulator sums over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime.watch import Tap


@dataclass(frozen=True)
class Look:
    """How to look. `windows`: of a convolution, in each sample, as a multiple of the columns of the
    weight; None for all of them. `widest`: columns of the largest block of a moment."""

    windows: float | None = 1.0
    widest: int = 8192

    def limit(self, columns: int) -> int | None:
        """How many windows of a sample are enough."""
        return None if self.windows is None else max(64, int(self.windows * columns))


class Accumulator(Protocol):
    """Sums over samples. Equal requests share one: `key` tells what is equal."""

    nbytes: int

    @property
    def taps(self) -> Sequence[Tap]:
        """What it looks at."""

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
