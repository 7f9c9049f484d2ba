"""Way: one way in which a node may have computed its outputs, and how well they fit it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node

TOLERANCE = 1e-5  # of the root mean square of a result, for float sums of up to 1024 terms
_TERMS = 1024
_ORDERS = 4.0  # how many times sqrt(terms) roundings


@dataclass(frozen=True)
class Way:
    """What a node's outputs should be.

    `terms`: length of its float sums. `steps`: how far integers may be off, where sums are rounded
    that may be taken in another order. `note`: what is odd about this way; "" where nothing is.
    `warns`: whether it makes results worse than they should be. `summed`: the sums of the
    magnitudes of their terms, which rounding is in proportion to where terms cancel.
    """

    outputs: Sequence[Array | None]
    terms: int = 1
    steps: int = 0
    note: str = ""
    warns: bool = False
    summed: Callable[[], Array] | None = None


Inputs = Sequence[Any]  # arrays, None where left out
Recompute = Callable[[Node, Inputs], Iterator[Way]]


@dataclass(frozen=True)
class Fit:
    """How a result fits a way: `holds`, `exact` where bit for bit; `off` says how far it is off."""

    holds: bool
    exact: bool
    off: str = ""


def fit(way: Way, results: Sequence[Array | None]) -> Fit:
    """Compare the outputs that were seen with those of a way."""
    exact, off = True, ""
    for expected, got in zip(way.outputs, results, strict=False):
        if expected is None or got is None:
            continue
        one = _fit(expected, got, way)
        exact &= one.exact
        off = off or one.off
    return Fit(not off, exact and not off, off)


def _fit(expected: Array, got: Array, way: Way) -> Fit:
    if expected.shape != got.shape:
        return Fit(False, False, f"shape {list(got.shape)}, not {list(expected.shape)}")
    if got.dtype.kind != "f":
        far = np.abs(got.astype(np.int64) - expected.astype(np.int64))
        most = int(far.max(initial=0))
        if most <= way.steps:
            return Fit(True, not most)
        return Fit(False, False, f"{np.mean(far > way.steps):.2%} of it, by up to {most}")
    if np.array_equal(expected, got, equal_nan=True):
        return Fit(True, True)
    reference = expected.astype(np.float64)
    size = sqrt(float(np.mean(reference**2))) if reference.size else 0.0
    far = np.abs(got.astype(np.float64) - reference)
    if not np.array_equal(np.isfinite(reference), np.isfinite(got)):
        return Fit(False, False, "NaN or infinity where there should be numbers, or the reverse")
    largest = float(np.nanmax(np.where(np.isfinite(reference), far, 0.0), initial=0.0))
    coarse = float(np.finfo(got.dtype).eps) if got.dtype.itemsize < 4 else 0.0
    allowed = max(TOLERANCE, coarse) * size * max(1.0, sqrt(way.terms / _TERMS))
    if largest <= allowed or (way.summed is not None and _rounding(far, way.summed(), way.terms)):
        return Fit(True, False)
    return Fit(False, False, f"by up to {largest / max(size, 1e-300):.1e} of its size")


def _rounding(far: Array, summed: Array, terms: int) -> bool:
    """Whether all differences are as small as those of two orders of float32 sums."""
    allowed = _ORDERS * float(np.finfo(np.float32).eps) * sqrt(terms) * summed
    return bool(np.all(far <= allowed))
