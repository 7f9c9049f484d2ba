"""Levels: what numbers the columns of a weight may take, for coordinate descent.

    Affine    scale (q - zero), q = 0 ... top; fitted: scale
    Masked    the same, but zero where a mask says so
    Bases     +-a_1 +- ... +-a_n; fitted: all a of a group together

All arrays are turned, [B, K, R] and [B, G, R], single precision, and changed in place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels import columns
from onnx_compress.kernels.machine.compiled import worth

Array = npt.NDArray[Any]
Along = Callable[[Array], Array]
_LEAST = 0.1  # of itself that a scale may shrink to at once


class Nearest(Protocol):
    """What knows the levels of a column."""

    def nearest(self, column: int, aim: Array, value: Array) -> Array:
        """The levels nearest to `aim`, [B, R]; `value` [B, K, R]: what all columns are."""


def one_by_one(levels: Nearest, start: int, value: Array, gradient: Array, h: Array) -> Array:
    """Change n columns of `value` [B, K, R] from `start` on where the loss falls; by how much.

    `gradient`: [B, n, R], not kept up to date; `h`: [B, n, n]. Gives the changes [B, n, R].
    """
    g, changes = gradient.copy(), np.zeros_like(gradient)
    for at in range(g.shape[1]):
        size, old = h[:, at, at, None], value[:, start + at]
        new = levels.nearest(start + at, old + g[:, at] / size, value)
        step = new - old
        # only where the loss falls by more than rounding: what is equal stays
        better = step * (2 * g[:, at] - step * size) > 0
        value[:, start + at] = np.where(better, new, old)
        changes[:, at] = step = np.where(better, step, np.float32(0))
        g[:, at + 1 :] -= h[:, at, at + 1 :, None] * step[:, None]
    return changes


@dataclass
class Affine:
    """`scale`, `zero`: [B, G, R]; `top`: the largest code; `group`: columns of a group.

    `partner`: [K], as for `columns.descend`; see paired.py.
    """

    scale: Array
    zero: Array
    top: int
    group: int
    partner: Array | None = None

    def nearest(self, column: int, aim: Array, value: Array) -> Array:
        """The levels nearest to `aim`, [B, R]."""
        scale, zero = self.scale[:, column // self.group], self.zero[:, column // self.group]
        codes = np.rint(aim / scale + zero)
        if self.partner is not None and self.partner[column] >= 0:
            beside = np.rint(value[:, self.partner[column]] / scale)
            low = zero - columns.MOST - np.minimum(beside, np.float32(0))
            codes = np.clip(codes, low, zero + columns.MOST - np.maximum(beside, np.float32(0)))
        return np.asarray(scale * (np.clip(codes, np.float32(0), np.float32(self.top)) - zero))

    def descend(
        self, start: int, value: Array, gradient: Array, h: Array, kept: Array | None = None
    ) -> Array:
        """As `one_by_one`, the same bits. `kept` [B, K, R]: a number is zero where it is False."""
        if not worth(value.size):
            levels = self if kept is None else Masked(self, kept)
            return one_by_one(levels, start, value, gradient, h)
        parts = self.scale, self.zero, self.group, self.top
        return columns.descend(value, start, gradient, h, *parts, kept, self.partner)

    def round(self, start: int, w: Array, upper: Array) -> Array:
        """Round n columns of `w` [B, K, R] from `start` on by GPTQ; what they lose, [B, n, R].

        `upper`: [B, n, n]; what is lost is over its diagonal.
        """
        if worth(w.size):
            parts = self.scale, self.zero, self.group, self.top
            return columns.gptq(w, start, upper, *parts)
        errors = np.empty((len(w), upper.shape[1], w.shape[2]), np.float32)
        for at in range(upper.shape[1]):
            k = start + at
            value = self.nearest(k, w[:, k], w)
            errors[:, at] = error = (w[:, k] - value) / upper[:, at, at, None]
            w[:, k + 1 : start + upper.shape[1]] -= upper[:, at, at + 1 :, None] * error[:, None]
            w[:, k] = value
        return errors

    def fit(self, group: int, value: Array, gradient: Array, along: Along) -> Array:
        """scale += dT g / dT H d,  d = q - zero; scales that would change sign or vanish stay."""
        scale, zero = self.scale[:, group], self.zero[:, group]
        codes = np.rint(value / scale[:, None] + zero[:, None])
        distance = codes - zero[:, None]
        slope = (distance * gradient).sum(1)
        curvature = (distance * along(distance)).sum(1)
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        kept = scale + step > np.float32(_LEAST) * scale
        self.scale[:, group] = np.where(kept, scale + step, scale)
        return np.asarray(self.scale[:, group][:, None] * distance)

    def value(self, codes: Array) -> Array:
        """The numbers [B, K, R] of codes [B, K, R]."""
        scale, zero = self._spread(codes)
        return np.asarray(scale * (codes - zero))

    def codes(self, value: Array) -> Array:
        """The codes of numbers that are levels."""
        scale, zero = self._spread(value)
        return np.asarray(np.rint(value / scale + zero))

    def _spread(self, like: Array) -> tuple[Array, Array]:
        count = like.shape[1]
        scale, zero = (np.repeat(p, self.group, axis=1) for p in (self.scale, self.zero))
        return scale[:, :count], zero[:, :count]


@dataclass
class Masked:
    """Other levels where `kept` [B, K, R] is True, and zero elsewhere: zero must be a level."""

    levels: Affine
    kept: Array
    group: int = field(init=False)

    def __post_init__(self) -> None:
        """Groups are those of the levels."""
        self.group = self.levels.group

    def nearest(self, column: int, aim: Array, value: Array) -> Array:
        """The levels nearest to `aim`, [B, R]; zero where that is all there is."""
        nearest = self.levels.nearest(column, aim, value)
        return np.where(self.kept[:, column], nearest, np.float32(0))

    def descend(self, start: int, value: Array, gradient: Array, h: Array) -> Array:
        """As `one_by_one`."""
        return self.levels.descend(start, value, gradient, h, self.kept)

    def fit(self, group: int, value: Array, gradient: Array, along: Along) -> Array:
        """Of the levels: zeros stay zero whatever the scale."""
        return self.levels.fit(group, value, gradient, along)


@dataclass
class Bases:
    """`scale`: [N, B, G, R], of N bases of signs; `group`: columns of a group."""

    scale: Array
    group: int

    def __post_init__(self) -> None:
        """All sums of signs."""
        count = len(self.scale)
        choices = np.array(list(product((1, -1), repeat=count)), np.float32).reshape(-1, count)
        self._choices = choices
        self._levels = np.tensordot(choices, self.scale, 1)  # [2^N, B, G, R]

    def nearest(self, column: int, aim: Array, value: Array) -> Array:
        """The levels nearest to `aim`, [B, R]."""
        levels = self._levels[:, :, column // self.group]
        best: Array = levels[0]
        least = np.abs(aim - best)
        for level in levels[1:]:
            distance = np.abs(aim - level)
            best = np.where(distance < least, level, best)
            least = np.minimum(distance, least)
        return best

    def descend(self, start: int, value: Array, gradient: Array, h: Array) -> Array:
        """As `one_by_one`."""
        return one_by_one(self, start, value, gradient, h)

    def fit(self, group: int, value: Array, gradient: Array, along: Along) -> Array:
        """a += (ST H S)^-1 ST g over the signs S of the group; equal bases share what they get."""
        signs = self._signs(group, value)
        right = np.einsum("ibkr,bkr->bri", signs, gradient)
        turned = np.stack([along(sign) for sign in signs])
        gram = np.einsum("ibkr,jbkr->brij", signs, turned).astype(np.float64)
        step = np.linalg.pinv(gram, 1e-6, hermitian=True) @ right[..., None]
        self.scale[:, :, group] += np.moveaxis(step[..., 0], -1, 0).astype(np.float32)
        self._levels[:, :, group] = np.tensordot(self._choices, self.scale[:, :, group], 1)
        return np.asarray((self.scale[:, :, group, None] * signs).sum(0))

    def value(self, signs: Array) -> Array:
        """The numbers [B, K, R] of signs [N, B, K, R]."""
        wide = np.repeat(self.scale, self.group, axis=2)[:, :, : signs.shape[2]]
        return np.asarray((wide * signs).sum(0))

    def signs(self, value: Array) -> Array:
        """The signs [N, B, K, R] of numbers that are levels."""
        found = np.empty((len(self.scale), *value.shape), np.float32)
        for at, start in enumerate(range(0, value.shape[1], self.group)):
            place = slice(start, start + self.group)
            found[:, :, place] = self._signs(at, value[:, place])
        return found

    def _signs(self, group: int, value: Array) -> Array:
        levels = self._levels[:, :, group, None]
        best = np.abs(value - levels).argmin(0)
        return np.moveaxis(self._choices[best], -1, 0)
