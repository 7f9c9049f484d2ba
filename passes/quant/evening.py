"""By what the features of a product's input are divided, so that bytes lose least of the output.

    x W  =  (x / s) (s W)        loss  =  step(x / s)^2 |s W|^2  +  E|x / s|^2 step(s W)^2

Steps of what becomes bytes: the range of all of x / s over 255, and the largest of each row of the
weight over 127. Rounding is taken for noise of step^2 / 12. Outliers of the input divided make its
range smaller and rows of the weight larger; the s of least loss is sought among

    top^a       top^a / own^(1-a)       max(1, top / t)^a        top, own: largest |x_c|, |W_c|

and then made better in small steps down the gradient. Where a factor runs on, through several
values in bytes, the loss is the sum over them, each with all weights that it flows into. Sources:
SmoothQuant (2211.10438); a search by the loss as AWQ (2306.00978) has it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.passes.statistics import Ends

_POWERS = np.linspace(0.1, 1.0, 10)
_QUANTILES, _CUT_POWERS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98), (0.5, 0.7, 0.85, 1.0)
_FITTED = 0.5  # of the noise of weights is left when codes are fitted to data
_WORTH = 0.75  # of the loss that must be left at most, else s is 1
_MOST = 1e3  # that a feature is divided by, relative to the others
_ROWS = 128  # of all weights that are looked at: each row has its own largest
_STEPS, _RATE, _SHARPNESS = 60, 0.05, 12.0


@dataclass(frozen=True)
class Reader:
    """A weight [R, K, T], T numbers of each feature in a row, and E[x^2] [K] of what it reads.

    `groups`: rows are multiplied with one of so many parts of the features, and zero elsewhere.
    """

    weight: Array
    square: Array
    groups: int = 1


@dataclass(frozen=True)
class Flow:
    """A value in bytes, and all readers that see what it loses."""

    ends: Ends
    readers: Sequence[Reader]


def evened(ends: Ends, weights: Sequence[Array]) -> Array | None:
    """s [K] of least loss, float32 numbers; None where it saves too little.

    `weights`: [R, K], all that are multiplied with the input.
    """
    readers = [Reader(w[:, :, None], ends.square) for w in weights]
    best = _best([Flow(ends, readers)], readers, _ROWS, _FITTED, powers=False)
    return None if best is None else np.asarray(best.astype(np.float32).astype(np.float64))


def evened_along(flows: Sequence[Flow], readers: Sequence[Reader]) -> Array | None:
    """s [K] for several values in bytes, powers of two: they change no number in float."""
    return _best(flows, readers, _ROWS * len(readers), 1.0, powers=True)


def _best(
    flows: Sequence[Flow], readers: Sequence[Reader], rows: int, fitted: float, powers: bool
) -> Array | None:
    each = [np.maximum(np.abs(f.ends.low), np.abs(f.ends.high)) for f in flows]
    top = np.max(each, axis=0)
    own = np.max([np.abs(r.weight).max((0, 2), initial=0) for r in readers], axis=0)
    live = (top > 0) & (own > 0)
    if not live.any() or not (np.isfinite(own).all() and np.isfinite(top).all()):
        return None
    noise = _Noise(flows, readers, live, rows, fitted)
    plain = np.ones(len(top))
    best, least = plain, noise.loss(plain)
    worth = _WORTH * least
    own = own.astype(np.float64)
    for s in _candidates(np.where(live, top, 1.0), np.where(live, own, 1.0), live):
        found = noise.loss(s)
        if found < least:
            best, least = s, found
    best, least = noise.descended(best, least)
    if powers:
        best = 2.0 ** np.rint(np.log2(best))
        least = noise.loss(best)
    return best if least <= worth else None


def _candidates(top: Array, own: Array, live: Array) -> Iterator[Array]:
    for a in _POWERS:
        yield _centred(top**a, live)
        yield _centred(top**a / own ** (1 - a), live)
    for quantile in np.quantile(top[live], _QUANTILES):
        for a in _CUT_POWERS:
            yield _centred(np.maximum(top / quantile, 1.0) ** a, live)


def _centred(s: Array, live: Array) -> Array:
    """Of geometric mean 1; features that are always zero stay."""
    s = s / np.exp(np.log(s[live]).mean())
    return np.where(live, np.clip(s, 1 / _MOST, _MOST), 1.0)


class _Noise:
    """The loss of s, and which way it falls. `matrix`: |W| of some rows for all, [R, K]."""

    def __init__(
        self,
        flows: Sequence[Flow],
        readers: Sequence[Reader],
        live: Array,
        rows: int,
        fitted: float,
    ) -> None:
        apart = max(sum(len(r.weight) for r in readers) // rows, 1)
        some = [np.abs(np.asarray(r.weight[::apart], np.float32)).max(2) for r in readers]
        self.matrix, self.live, self.fitted = np.concatenate(some), live, fitted
        counts = [len(part) for part in some]
        stands = [  # for so many rows and numbers of a row each
            r.weight.shape[2] * len(r.weight) / (r.groups * max(count, 1))
            for r, count in zip(readers, counts, strict=True)
        ]
        self.each = np.repeat(stands, counts)
        self.of = np.repeat(np.arange(len(readers)), counts)  # the reader of each row
        self.square = np.array([r.square for r in readers])
        self.flows = [
            (np.maximum(-f.ends.low, 0.0), np.maximum(f.ends.high, 0.0), _power(f.readers))
            for f in flows
        ]

    def loss(self, s: Array) -> float:
        inputs = sum(
            (((high / s).max() + (low / s).max()) / 255) ** 2 * float(power @ s**2)
            for low, high, power in self.flows
        )
        rows = (self.matrix * s.astype(np.float32)).max(1).astype(np.float64)
        sizes = self.square @ s**-2.0
        return float(inputs + self.fitted * float((self.each * (rows / 127) ** 2) @ sizes[self.of]))

    def descended(self, s: Array, least: float) -> tuple[Array, float]:
        """By gradients of log s, with maxima made smooth (Adam, 1412.6980)."""
        best, u = s, np.log(s)
        first, second = np.zeros_like(u), np.zeros_like(u)
        for step in range(1, _STEPS + 1):
            slope = self._slope(np.exp(u)) * self.live
            first = 0.9 * first + 0.1 * slope
            second = 0.99 * second + 0.01 * slope**2
            size = np.sqrt(second / (1 - 0.99**step)) + 1e-12
            u = u - _RATE * first / (1 - 0.9**step) / size
            found = self.loss(_centred(np.exp(u), self.live))
            if found < least:
                best, least = _centred(np.exp(u), self.live), found
        return best, least

    def _slope(self, s: Array) -> Array:
        """Of log loss, by log s."""
        slope, total = np.zeros(len(s)), 0.0
        for below, above, known in self.flows:
            high, mine = _soft(above / s)
            low, other = _soft(below / s)
            reach, power = high + low, known * s**2
            inputs = (reach / 255) ** 2 * power.sum()
            slope += inputs * (-2 * (high * mine + low * other) / max(reach, 1e-30))
            slope += inputs * 2 * power / max(power.sum(), 1e-30)
            total += inputs
        scaled = self.matrix * s.astype(np.float32)
        rows = np.maximum(scaled.max(1, keepdims=True), np.float32(1e-30))
        # a large power, by squaring: which columns make the maximum of a row
        share = (scaled / rows) ** 2
        share = share * share * share
        share *= share
        share /= share.sum(1, keepdims=True)
        steps = self.fitted * self.each * (rows[:, 0].astype(np.float64) / 127) ** 2
        sizes = (self.square @ s**-2.0)[self.of]
        slope += 2 * ((steps * sizes) @ share)
        apart = np.bincount(self.of, steps, len(self.square))
        slope += -2 * (apart @ self.square) / s**2
        return np.asarray(slope / max(total + float(steps @ sizes), 1e-300))


def _power(readers: Sequence[Reader]) -> Array:
    """Of each feature: the squares of all that it is multiplied with."""
    squares = [np.einsum("rkt,rkt->k", r.weight, r.weight, dtype=np.float64) for r in readers]
    return np.asarray(np.sum(squares, axis=0))


def _soft(x: Array) -> tuple[float, Array]:
    """The maximum, and the share that each has in it."""
    most = float(x.max(initial=0.0))
    if most <= 0:
        return 0.0, np.zeros_like(x)
    share = (x / most) ** _SHARPNESS
    return most, share / share.sum()
