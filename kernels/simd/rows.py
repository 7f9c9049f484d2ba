"""Rows of activations in tiles, so that one lane of each row lies together.

    A [M, K]  ->  tiles of 6, 4, 2 or 1 rows:  [K / g, rows] lanes of g codes

Lanes are 32 bits: 4 bytes, 2 bytes made 16 bits, or one float32.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel

Array = npt.NDArray[Any]


def tiles(a: Array, group: int, most: int, steps: int) -> Array:
    """uint32 [M, steps] of a, bytes [M, K]: lanes of `group` codes, 4 or 2, filled up with zeros.

    Tiles of `most` rows follow each other, then of 4, 2 and 1; the first lane of a tile lies where
    its first row would.
    """
    raw = np.zeros((len(a), steps * group), np.uint8)
    raw[:, : a.shape[1]] = a.view(np.uint8)
    out = np.empty((len(a), steps), np.uint32)
    if group == 4:
        _lanes(raw.view(np.uint32), most, out.reshape(-1))
    else:
        _pairs(raw.view(np.uint16), most, out.reshape(-1))
    return out


def float_tiles(x: Array, most: int, steps: int) -> Array:
    """float32 [M, steps] of x, float32 [M, K], in tiles like `tiles`."""
    out = np.empty((len(x), steps), np.float32)
    wide = np.zeros((len(x), steps), np.float32)
    wide[:, : x.shape[1]] = x
    _lanes(wide, most, out.reshape(-1))
    return out


@kernel(writes=("out",))
def _lanes(a: Any, most: int, out: Any) -> None:
    count, steps = a.shape
    first = 0
    while first < count:
        left = count - first
        rows = most if left >= most else 4 if left >= 4 else 2 if left >= 2 else 1
        for i in range(rows):
            for k in range(steps):
                out[first * steps + k * rows + i] = a[first + i, k]
        first += rows


@kernel(writes=("out",))
def _pairs(a: Any, most: int, out: Any) -> None:
    count, steps = a.shape
    first = 0
    while first < count:
        left = count - first
        rows = most if left >= most else 4 if left >= 4 else 2 if left >= 2 else 1
        for i in range(rows):
            for k in range(steps):
                both = np.uint32(a[first + i, k])
                wide = (both & np.uint32(0xFF)) | ((both & np.uint32(0xFF00)) << np.uint32(8))
                out[first * steps + k * rows + i] = wide
        first += rows
