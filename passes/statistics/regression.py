"""Regression: what a changed weight should give, from what it is now multiplied by.

y = W x in the original       x' in the changed model
C = Cov(x', x')   B = Cov(y, x')        V = B C^-1 is the best weight there, V E[x'] + b = E[y]

Where r is added to what the weight gives, and is r' now, y = W x + r - r': the weight makes up for
what the residual stream has lost so far, as far as x' tells of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime.watch import Tap
from onnx_compress.ir.weights.unrolled import places_of_windows
from onnx_compress.ir.weights.weight import Use
from onnx_compress.passes.statistics.moment import rows, taps
from onnx_compress.passes.statistics.request import Look


@dataclass(frozen=True)
class Fit:
    """`inner` [2, G, K', K'], `cross` [2, G, R', K'], means [G, K'] and [G, R']; float64.

    The two are of even and of odd samples, so that what is fitted to one can be judged on the
    other; both centred on the means of all. With more columns than `Regression.widest`, `inner`
    and `cross` are empty.
    """

    inner: Array
    cross: Array
    mean: Array
    target: Array
    rows: int

    def through_zero(self) -> "Fit":
        """The same for a weight without a bias: E[x' x'T] and E[y x'T], no means."""
        none = np.zeros_like(self.mean), np.zeros_like(self.target)
        if not self.inner.size:
            return Fit(self.inner, self.cross, *none, self.rows)
        inner = self.inner + self.mean[:, :, None] * self.mean[:, None, :]
        cross = self.cross + self.target[:, :, None] * self.mean[:, None, :]
        return Fit(inner, cross, *none, self.rows)


@dataclass(frozen=True, eq=False)
class Regression:
    """Asks for a Fit of a use to one of another model, which sees the same samples.

    `weight`: W of the original, [G, R, K]. `chosen` [G', R', 2]: group and row of W that each row
    of this use stands for. `beside`: r' and r, of a weight of one group.
    """

    use: Use
    model: Model
    reference: Use
    weight: Array
    chosen: Array
    widest: int = 6144
    beside: tuple[Tap, Tap] | None = None

    def key(self) -> Any:
        """Each has its own."""
        return self

    def start(self, look: Look) -> "_Regression":
        """At zero."""
        return _Regression(self, look)


class _Regression:
    def __init__(self, request: Regression, look: Look) -> None:
        self.request = request
        now, then = ([request.beside[0]], [request.beside[1]]) if request.beside else ([], [])
        self.taps: Sequence[Tap] = [*taps(request.use), *now]
        self.reference = [*taps(request.reference), *then]
        self.model = request.model
        layout = request.use.layout
        self._groups = request.chosen[:, 0, 0]
        self._limit = look.limit(layout.columns if layout.groups == 1 else 64)
        picked = request.weight[self._groups[:, None], request.chosen[:, :, 1]]
        self._weight = np.asarray(picked, np.float32)  # [G', R', K]
        columns, count = layout.columns, self._weight.shape[1]
        self._wide = columns > request.widest
        size = 0 if self._wide else columns
        self._inner = np.zeros((2, layout.groups, size, size))
        self._cross = np.zeros((2, layout.groups, count if size else 0, size))
        self._mean = np.zeros((2, layout.groups, columns))
        self._target = np.zeros((2, layout.groups, count))
        self._rows, self._samples = np.zeros(2, np.int64), 0
        self._shift: tuple[Array, Array] = self._mean[0], self._target[0]
        self.nbytes = self._inner.nbytes + self._cross.nbytes

    def add(self, seen: Mapping[Tap, Any], kept: Array | None) -> None:
        self.adding(seen, kept)()

    def adding(self, seen: Mapping[Tap, Any], kept: Array | None) -> Callable[[], None]:
        """The work of `add`; that of one sample and of the next may be done at the same time."""
        mine = list(rows(self.request.use, seen, kept, self._limit))
        theirs = list(rows(self.request.reference, seen, kept, self._limit))
        if not mine or not theirs:
            return lambda: None
        x = np.asarray(np.concatenate(mine, axis=1), np.float32)
        original = np.asarray(np.concatenate(theirs, axis=1), np.float32)
        half, first = self._samples % 2, not self._samples
        self._samples += 1
        if first:  # so that products of large means lose no digits
            self._shift = x.mean(1), self._given(original, seen).mean(1)
        return lambda: self._sum(half, x, self._given(original, seen))

    def _given(self, original: Array, seen: Mapping[Tap, Any]) -> Array:
        """What the weight should give, [G', n, R']."""
        y: Array = original[self._groups] @ self._weight.transpose(0, 2, 1)
        if self.request.beside is not None:
            y = y + self._lost(seen, self.request.beside, y.shape)
        return y

    def _sum(self, half: int, x: Array, y: Array) -> None:
        x, y = x - self._shift[0][:, None], y - self._shift[1][:, None]
        if not self._wide:
            turned = x.transpose(0, 2, 1)
            self._inner[half] += turned @ x
            self._cross[half] += y.transpose(0, 2, 1) @ x
        self._mean[half] += x.sum(1, dtype=np.float64)
        self._target[half] += y.sum(1, dtype=np.float64)
        self._rows[half] += x.shape[1]

    def _lost(self, seen: Mapping[Tap, Any], beside: tuple[Tap, Tap], shape: Any) -> Any:
        """r - r', [1, n, R']; nothing where they are not of the shape of the output."""
        now, then = (self._places(np.asarray(seen[tap], np.float32)) for tap in beside)
        if now.shape != shape or then.shape[:2] != now.shape[:2]:
            return np.float32(0)
        rows = self.request.chosen[0, :, 1]
        return then[:, :, rows] - now if rows.max(initial=0) < then.shape[2] else np.float32(0)

    def _places(self, r: Array) -> Array:
        if r.ndim < 2:
            return r
        if self.request.use.node.op in ("Conv", "ConvTranspose"):
            return np.concatenate(list(places_of_windows(r, self._limit)), axis=1)
        return r.reshape(1, -1, r.shape[-1])

    def result(self) -> Fit:
        count = np.maximum(self._rows, 1)
        mean, target = (t.sum(0) / count.sum() for t in (self._mean, self._target))
        means = mean + self._shift[0], target + self._shift[1]
        rows = int(self._rows.sum())
        if self._wide:
            return Fit(self._inner, self._cross, *means, rows)
        inner, cross = self._inner, self._cross
        for half in (0, 1):
            n, own = self._rows[half], self._mean[half]
            _centre(inner[half], n, own, mean, own, mean)
            _centre(cross[half], n, self._target[half], target, own, mean)
            inner[half] /= count[half]
            cross[half] /= count[half]
        return Fit(inner, cross, *means, rows)


def _centre(sums: Array, count: Any, a: Array, a_mean: Array, b: Array, b_mean: Array) -> None:
    """Sums of (a - m)(b - n) from those of a b. `sums` [G, A, B], `a` and `b`: sums [G, ...]."""
    sums -= a[:, :, None] * b_mean[:, None, :] + a_mean[:, :, None] * b[:, None, :]
    sums += count * a_mean[:, :, None] * b_mean[:, None, :]
