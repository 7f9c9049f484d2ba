"""How far the outputs of one model are from those of another.

Per float output, over all samples together:

    error    = |y - r| / |r - mean of its channel|      channels without variance left out
    lost     = mean over parts p of  min(|y_p - r_p|^2 / |r_p - mean of its channel|^2, 1)
    sqnr_db  = 10 log10(|r|^2 / |y - r|^2)              not centred

The channel axis is the one that makes the error largest, among the axes (after the first) whose
size is the same in all samples. The first adds channels up, so that boxes hide what is lost of
scores which share their output. The second parts channels where deviations, sorted, fall by more
than 30 times, of axes of few channels with many numbers each; where its root, halved, is larger,
that is the error.
Integer and boolean outputs count by the share of elements that differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MAX_DB = 200.0  # stands for equal outputs
WIDEST, _LEAST = 256, 64  # channels, and numbers of each, that tell what is lost of them
_GAP = 30.0  # between the deviations of channels of two parts
_HIDDEN = 0.5  # of what parts lose: those that say little count as much as others


@dataclass(frozen=True)
class OutputQuality:
    """Of one output. `sqnr_db` is None where it is not a float; `lost`: error^2 of its parts."""

    name: str
    error: float
    sqnr_db: float | None
    lost: float = 0.0

    @property
    def plain_error(self) -> float:
        """|y - r| / |r|, or the share that differs."""
        if self.sqnr_db is None:
            return self.error
        return 0.0 if self.sqnr_db >= MAX_DB else float(10 ** (-self.sqnr_db / 20))


@dataclass(frozen=True)
class Quality:
    """Of a model: its worst output counts. `score`: of the metric, where one was asked for."""

    outputs: tuple[OutputQuality, ...]
    score: float | None = None

    @property
    def error(self) -> float:
        """The largest error of an output; infinite if one has NaN where there was a number."""
        return max((output.error for output in self.outputs), default=0.0)

    @property
    def plain_error(self) -> float:
        """The largest error where the reference is not centred."""
        return max((output.plain_error for output in self.outputs), default=0.0)

    @property
    def lost(self) -> float:
        """What parts of an output lose on average, of the worst output."""
        return max((output.lost for output in self.outputs), default=0.0)

    @property
    def sqnr_db(self) -> float:
        """The lowest signal-to-noise ratio of an output."""
        known = [output.sqnr_db for output in self.outputs if output.sqnr_db is not None]
        return min(known, default=MAX_DB)


@dataclass
class Tally:
    """Sums over samples for one output. `widest`: axes with more channels are left out."""

    name: str
    widest: float = float("inf")
    signal: float = 0.0
    noise: float = 0.0
    elements: int = 0
    differing: int = 0
    is_float: bool = True
    broken: bool = False
    axes: dict[int, list[Array]] | None = field(default=None)

    def add(self, reference: Any, actual: Any) -> None:
        """Take in what the two models gave for one sample."""
        if not isinstance(reference, np.ndarray) or not isinstance(actual, np.ndarray):
            self.is_float = False
            self.elements += 1
            self.differing += not _same(reference, actual)
            return
        if reference.shape != actual.shape:
            self.broken = True
            return
        self.elements += reference.size
        self.is_float = np.issubdtype(reference.dtype, np.floating)
        if not self.is_float:
            self.differing += int((reference != actual).sum())
            return
        r, y = reference.astype(np.float64), actual.astype(np.float64)
        known = np.isfinite(r)
        # where the original gives NaN or infinity, the same is right
        self.broken |= not np.array_equal(r[~known], y[~known], equal_nan=True)
        self.broken |= not np.isfinite(y[known]).all()
        if self.broken:
            return
        r, y = np.where(known, r, 0.0), np.where(known, y, 0.0)
        square = (y - r) ** 2
        self.signal += float((r * r).sum())
        self.noise += float(square.sum())
        self._channels(r, square)

    def _channels(self, r: Array, square: Array) -> None:
        if self.axes is None:
            self.axes = {
                axis: [np.zeros(size) for _ in range(3)] + [np.zeros(1)]
                for axis, size in enumerate(r.shape)
                if axis > 0 and size <= self.widest
            }
        for axis in list(self.axes):
            sums = self.axes[axis]
            if axis >= r.ndim or r.shape[axis] != sums[0].size:
                del self.axes[axis]  # a length, not a channel
                continue
            others = tuple(other for other in range(r.ndim) if other != axis)
            for total, part in zip(sums, (r, r * r, square), strict=False):
                total += part.sum(axis=others)
            sums[3] += r.size / max(r.shape[axis], 1)

    def result(self) -> OutputQuality:
        """The figures over everything taken in."""
        if self.broken:
            return OutputQuality(self.name, float("inf"), -MAX_DB)
        if not self.is_float:
            return OutputQuality(self.name, self.differing / max(self.elements, 1), None)
        if self.noise == 0:
            return OutputQuality(self.name, 0.0, MAX_DB)
        db = 10 * float(np.log10(max(self.signal, 1e-300) / self.noise))
        plain = float(np.sqrt(self.noise / max(self.signal, 1e-300)))
        axes = list((self.axes or {}).values())
        centred = [error for sums in axes if (error := _centred(sums)) is not None]
        lost = max(map(_lost, axes), default=0.0)
        error = max([*centred, _HIDDEN * float(np.sqrt(lost))]) if centred else plain
        return OutputQuality(self.name, error, max(min(db, MAX_DB), -MAX_DB), lost)


def _centred(sums: list[Array]) -> float | None:
    variance, lively = _variance(sums)
    if not lively.any():
        return None
    return float(np.sqrt(sums[2][lively].sum() / variance[lively].sum()))


def _lost(sums: list[Array]) -> float:
    """Of each part of like channels what it loses, on average."""
    variance, lively = _variance(sums)
    if not 1 < len(variance) <= WIDEST or sums[3][0] < _LEAST or not lively.any():
        return 0.0
    order = np.argsort(-variance[lively], kind="stable")
    squares, noise = variance[lively][order], sums[2][lively][order]
    starts = np.flatnonzero(np.append(True, squares[1:] * _GAP**2 < squares[:-1]))
    shares = np.add.reduceat(noise, starts) / np.add.reduceat(squares, starts)
    return float(np.minimum(shares, 1.0).mean())


def _variance(sums: list[Array]) -> tuple[Array, Array]:
    """Of each channel, times its numbers; and where it is one."""
    total, squares, _, count = sums
    variance = squares - total**2 / np.maximum(count, 1)
    lively = variance > 1e-9 * squares  # what is left of a constant channel is rounding
    return variance, lively & (count[0] > 1)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))
