"""Pairs: codes whose products with bytes fit 16 bits, two at a time.

    255 |a + b| <= 32767  where a, b have one sign        |a| + |b| <= 128

Processors without VNNI (vpmaddubsw) add the products of two neighbours in 16 bits, and what is
beyond is cut off. Codes of 7 bits never get there; of 8 bits few pairs do, as large neighbours of
one sign are rare. So 8 bits are used, a little narrower for rows that have such pairs.

`partner`: [K], for each column the one whose product is added to its own, -1 for none.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.columns import MOST

Array = npt.NDArray[Any]
TOP = 127  # of a code


def largest_pair(matrix: Array, partner: Array) -> Array:
    """The largest |a| + |b| of neighbours of one sign in each row: [..., R, K] -> [..., R, 1]."""
    first, second = _ends(partner)
    if not len(first):
        return np.zeros((*matrix.shape[:-1], 1), matrix.dtype)
    sums = np.abs(matrix[..., first] + matrix[..., second])
    same = (matrix[..., first] >= 0) == (matrix[..., second] >= 0)
    return np.asarray(np.where(same, sums, 0).max(-1, keepdims=True))


def drawn_in(codes: Array, partner: Array) -> Array:
    """Codes [..., R, K] around zero, with pairs that are too large made smaller, both alike."""
    first, second = _ends(partner)
    a, b = (np.asarray(codes[..., side], np.int32) for side in (first, second))
    over = np.where((a >= 0) == (b >= 0), np.maximum(np.abs(a + b) - MOST, 0), 0)
    if not over.any():
        return codes
    out = codes.copy()
    out[..., first] -= (np.sign(a) * (over - over // 2)).astype(codes.dtype)
    out[..., second] -= (np.sign(b) * (over // 2)).astype(codes.dtype)
    return out


def within(partner: Array, place: slice) -> Array:
    """Of some columns alone; -1 where the partner is another one."""
    found = partner[place] - place.start
    return np.where((found >= 0) & (found < len(found)), found, -1)


def _ends(partner: Array) -> tuple[Array, Array]:
    """The columns of each pair, once."""
    columns = np.arange(len(partner))
    first = columns[partner > columns]
    return first, partner[first]
