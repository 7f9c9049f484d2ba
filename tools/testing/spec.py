"""Spec: what one kind of node needs, and how it is added. The tables are in `specs/`."""

from collections.abc import Callable
from dataclasses import dataclass

from onnx_compress.testing.builder import LARGEST, Builder, Known

MOST = LARGEST
Fits = Callable[[Known], bool]
Add = Callable[[Builder, Known], Known]


@dataclass(frozen=True)
class Spec:
    """One row: `fits` says which values it may read, `add` adds it.

    `operators`: all that it may add, of which the first gives it its name, unless it is a `block`
    that has one. `keeps`: type and shape
    of the output are those of the input, so it may stand in a body. `floats`: types of numbers
    that the runtime computes it in.
    """

    operators: tuple[str, ...]
    fits: Fits
    add: Add
    since: int = 1
    until: int = 10_000
    keeps: bool = False
    floats: tuple[str, ...] = ("float32",)
    body: bool = False
    block: str = ""

    @property
    def name(self) -> str:
        """That of its operator or block."""
        return self.block or self.operators[0]

    def takes(self, known: Known) -> bool:
        """Whether a value may be its input."""
        return self.fits(known) and (not known.is_float or known.kind in self.floats)

    def allowed(self, opset: int) -> bool:
        """Whether the operator set has it so."""
        return self.since <= opset <= self.until


def number(known: Known) -> bool:
    """Any float."""
    return known.is_float


def ranked(*ranks: int) -> Fits:
    """A float with so many axes."""
    return lambda known: known.is_float and known.rank in ranks


def closed(known: Known) -> bool:
    """A float whose size is all known."""
    return known.is_float and not known.open


ALL = ("float32", "float16", "float64")
WIDE = ("float32", "float64")
