"""Grid: the numbers that a quantized weight can take.

    v = scale * (q - zero)       q = 0 ... 2^bits - 1

One scale and one zero for each group of `group` columns of a row; the last group may be shorter.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """`scale`, `zero`: [R, G], float64; `bits`; `group`: columns of a group; `columns`: K.

    1.58 bits have three codes.
    """

    scale: Array
    zero: Array
    bits: float
    group: int
    columns: int

    @property
    def top(self) -> int:
        """The largest code."""
        return round(2**self.bits) - 1

    def spread(self, parameters: Array) -> Array:
        """[R, G] -> [R, K]: each group's number at each of its columns."""
        return np.repeat(parameters, self.group, axis=1)[:, : self.columns]

    def codes(self, weight: Array) -> Array:
        """The nearest codes of a weight, as integers in float64."""
        found = np.round(weight / self.spread(self.scale) + self.spread(self.zero))
        return np.asarray(np.clip(found, 0, self.top))

    def decode(self, codes: Array) -> Array:
        """The numbers of codes."""
        return np.asarray(self.spread(self.scale) * (codes - self.spread(self.zero)))

    def nearest(self, weight: Array) -> Array:
        """The nearest numbers of the grid."""
        return self.decode(self.codes(weight))

    def rows(self, place: slice) -> "Grid":
        """That of some rows."""
        return Grid(self.scale[place], self.zero[place], self.bits, self.group, self.columns)


def groups(weight: Array, group: int) -> Array:
    """[R, K] -> [R, G, group], the last group filled up with its own last column."""
    rows, columns = weight.shape
    count = -(-columns // group)
    padded = np.pad(weight, ((0, 0), (0, count * group - columns)), mode="edge")
    return padded.reshape(rows, count, group)


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
