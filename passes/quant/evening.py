"""By what the features of a product's input are divided, so that bytes lose least of the output.

    x W  =  (x / s) (s W)        loss  =  step(x / s)^2 |s W|^2  +  E|x / s|^2 step(s W)^2

Steps of what becomes bytes: the range of all of x / s over 255, and the largest of each row of the
weight over 127. Rounding is taken for noise of step^2 / 12. Outliers of the input divided make its
range smaller and rows of the weight larger; the s of least loss is sought among

    top^a       top^a / own^(1-a)       max(1, top / t)^a        top, own: largest |x_c|, |W_c|

and then made better in small steps down the gradient. Sources: SmoothQuant (2211.10438); a search
by the loss as AWQ (2306.00978) has it.
"""

from collections.abc import Iterator, Sequence

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


def evened(ends: Ends, weights: Sequence[Array]) -> Array | None:
    """s [K] of least loss, float32 numbers; None where it saves too little.

    `weights`: [R, K], all that are multiplied with the input.
    """
    top = np.maximum(np.abs(ends.low), np.abs(ends.high))
    own = np.max([np.abs(w).max(0, initial=0) for w in weights], axis=0).astype(np.float64)
    live = (top > 0) & (own > 0)
    if not live.any() or not (np.isfinite(own).all() and np.isfinite(top).all()):
        return None
    noise = _Noise(ends, weights, live)
    plain = np.ones(len(top))
    best, least = plain, noise.loss(plain)
    worth = _WORTH * least
    for s in _candidates(np.where(live, top, 1.0), np.where(live, own, 1.0), live):
        found = noise.loss(s)
        if found < least:
            best, least = s, found
    best, least = noise.descended(best, least)
    if least > worth:
        return None
    return np.asarray(best.astype(np.float32).astype(np.float64))


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

    def __init__(self, ends: Ends, weights: Sequence[Array], live: Array) -> None:
        count = sum(len(w) for w in weights)
        apart = max(count // _ROWS, 1)
        some = [np.abs(np.asarray(w[::apart], np.float32)) for w in weights]
        self.matrix, self.live = np.concatenate(some), live
        self.each = count / max(len(self.matrix), 1)  # rows that one stands for
        self.low, self.high = np.maximum(-ends.low, 0.0), np.maximum(ends.high, 0.0)
        self.square = ends.square
        self.power = sum(np.einsum("rk,rk->k", w, w, dtype=np.float64) for w in weights)

    def loss(self, s: Array) -> float:
        reach = (self.high / s).max() + (self.low / s).max()
        rows = (self.matrix * s.astype(np.float32)).max(1).astype(np.float64)
        inputs = (reach / 255) ** 2 * float(self.power @ s**2)
        steps = self.each * float((rows / 127) @ (rows / 127))
        return float(inputs + _FITTED * steps * self._size(s))

    def _size(self, s: Array) -> float:
        return float(self.square @ s**-2.0)

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
        high, mine = _soft(self.high / s)
        low, other = _soft(self.low / s)
        reach, power, size = high + low, self.power * s**2, self._size(s)
        inputs = (reach / 255) ** 2 * power.sum()
        slope = inputs * (-2 * (high * mine + low * other) / max(reach, 1e-30))
        slope += inputs * 2 * power / max(power.sum(), 1e-30)
        scaled = self.matrix * s.astype(np.float32)
        rows = np.maximum(scaled.max(1, keepdims=True), np.float32(1e-30))
        # a large power, by squaring: which columns make the maximum of a row
        share = (scaled / rows) ** 2
        share = share * share * share
        share *= share
        share /= share.sum(1, keepdims=True)
        squared = self.each * (rows[:, 0] / 127) ** 2
        total = float(squared.sum(dtype=np.float64))
        weights = _FITTED * total * size
        slope += _FITTED * size * 2 * (squared @ share).astype(np.float64)
        slope += -2 * _FITTED * total * self.square / s**2
        return np.asarray(slope / max(inputs + weights, 1e-300))


def _soft(x: Array) -> tuple[float, Array]:
    """The maximum, and the share that each has in it."""
    most = float(x.max(initial=0.0))
    if most <= 0:
        return 0.0, np.zeros_like(x)
    share = (x / most) ** _SHARPNESS
    return most, share / share.sum()
