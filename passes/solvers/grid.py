"""Grid: the numbers that a quantized weight can take.

    v = scale * (q - zero)       q = 0 ... top

One scale and one zero for each group of `group` columns of a row; the last group may be shorter.
`top` is 2^bits - 1, and 2 for the three levels of a ternary weight.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """`scale`, `zero`: [..., R, G], floats; `bits`; `group`: columns of a group; `columns`: K.

    `levels`: how many codes there are, if not 2^bits.
    """

    scale: Array
    zero: Array
    bits: int
    group: int
    columns: int
    levels: int = 0

    @property
    def top(self) -> int:
        """The largest code."""
        return (self.levels or 1 << self.bits) - 1

    def spread(self, parameters: Array) -> Array:
        """[..., R, G] -> [..., R, K]: each group's number at each of its columns."""
        return np.repeat(parameters, self.group, axis=-1)[..., : self.columns]

    def codes(self, weight: Array) -> Array:
        """The nearest codes of a weight [..., R, K], whole numbers as floats of its type."""
        found = np.round(weight / self.spread(self.scale) + self.spread(self.zero))
        return np.asarray(np.clip(found, 0, self.top), np.asarray(weight).dtype)

    def decode(self, codes: Array) -> Array:
        """The numbers of codes."""
        return np.asarray(self.spread(self.scale) * (codes - self.spread(self.zero)))

    def nearest(self, weight: Array) -> Array:
        """The nearest numbers of the grid."""
        return self.decode(self.codes(weight))


def group_size(group: int, columns: int) -> int:
    """Columns of a group: `group`, at most all of them; 0: a group is a row."""
    return max(min(group, columns) if group > 0 else columns, 1)


def groups(weight: Array, group: int) -> Array:
    """[..., K] -> [..., G, group], the last group filled up with its own last column."""
    columns = weight.shape[-1]
    count = -(-columns // group)
    spare = [(0, 0)] * (weight.ndim - 1) + [(0, count * group - columns)]
    padded = np.pad(weight, spare, mode="edge") if count * group > columns else weight
    return padded.reshape(*weight.shape[:-1], count, group)


def counted(importance: Array | None, shape: tuple[int, ...], group: int) -> Array:
    """Weights of squared errors, [..., G, group], with zeros where `groups` only fills up.

    `importance`: [K], or [G, K] for a weight of shape [G, R, K]; None: 1 for all.
    """
    columns = shape[-1]
    if importance is None:
        d = np.ones((*shape[:-2], columns))
    else:
        d = np.asarray(importance, np.float64)
    parts = groups(d, group).copy()
    spare = parts.shape[-2] * group - columns
    if spare:
        parts[..., -1, group - spare :] = 0.0
    return parts


def between(low: Array, high: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """Scale and zero of grids from `low` to `high`, which hold zero exactly."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if symmetric:
        # from -2^(b-1) to 2^(b-1) - 1, the codes of signed integers, reaching both ends
        half = 1 << (bits - 1)
        scale = np.maximum(-low / half, high / max(half - 1, 1))
        zero = np.full_like(scale, half)
    else:
        scale = (high - low) / ((1 << bits) - 1)
        zero = np.round(-low / np.where(scale > 0, scale, 1.0))
    return np.where(scale > 0, scale, 1.0), zero
