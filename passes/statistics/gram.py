"""Sums of outer products, in single precision over blocks of rows of a fixed size.

    H += XT X        X: 256 rows at a time, in the order in which they come

The blocks make sums the same however rows are cut into batches. One group is kept packed: half of
the matrix, in the rectangular full packed format of LAPACK.
"""

from math import isqrt

import numpy as np

from onnx_compress.ir.graph.elements import Array

_ROWS = 256
_APART = 256  # columns that blocks begin apart, a multiple of so many
_GROUPED = 16  # rows at a time of many groups: what convolutions often give of a sample
_ONES = np.ones(_ROWS, np.float32)  # a product with them is the fastest sum


class Gram:
    """Of one group: [K, K], packed, in diagonal blocks of at most `widest` columns.

    They are about as large as each other, and begin where groups of columns in a grid do.
    """

    def __init__(self, columns: int, widest: int) -> None:
        count = -(-columns // widest)
        size = min(-(-columns // max(count, 1) // _APART) * _APART, widest)
        self.places = [
            slice(start, min(start + size, columns)) for start in range(0, columns, max(size, 1))
        ]
        sizes = [place.stop - place.start for place in self.places]
        self._packed = [np.zeros(size * (size + 1) // 2, np.float32) for size in sizes]
        self._buffer = np.empty((_ROWS, columns), np.float32)
        self._filled = 0
        self.rows, self.total = 0, np.zeros(columns)
        self.nbytes = self._buffer.nbytes + sum(packed.nbytes for packed in self._packed)

    def add(self, rows: Array) -> None:
        """Rows [n, K]."""
        at = 0
        while at < len(rows):
            taken = min(len(rows) - at, _ROWS - self._filled)
            self._buffer[self._filled : self._filled + taken] = rows[at : at + taken]
            self._filled += taken
            at += taken
            if self._filled == _ROWS:
                self._flush()
        self.rows += len(rows)

    def _flush(self) -> None:
        from scipy.linalg.lapack import ssfrk

        block = self._buffer[: self._filled]
        self.total += _ONES[: self._filled] @ block
        for place, packed in zip(self.places, self._packed, strict=True):
            part = np.asfortranarray(block[:, place].T)
            n, k = part.shape
            ssfrk(n, k, 1.0, part, 1.0, packed, transr="N", uplo="L", trans="N", overwrite_c=1)
        self._filled = 0

    def packed(self) -> list[Array]:
        """The diagonal blocks of the mean outer product, each packed, float32."""
        if self._filled:
            self._flush()
        for packed in self._packed:
            packed /= max(self.rows, 1)
        return self._packed


def side(packed: Array) -> int:
    """K of a packed block."""
    return (isqrt(8 * len(packed) + 1) - 1) // 2


def unpacked(packed: Array) -> Array:
    """[K, K], float64."""
    from scipy.linalg.lapack import stfttr

    found, _ = stfttr(side(packed), packed, transr="N", uplo="L")
    lower = np.tril(found).astype(np.float64)
    lower += np.tril(lower, -1).T
    return np.asarray(lower)


class GroupedGram:
    """Of many groups of few columns: [G, K, K], like one group, but whole."""

    def __init__(self, groups: int, columns: int) -> None:
        self._sum = np.zeros((groups, columns, columns), np.float32)
        self._block = np.empty((groups, _GROUPED, columns), np.float32)
        self._filled = 0
        self.rows, self.total = 0, np.zeros((groups, columns))
        self.nbytes = self._sum.nbytes + self._block.nbytes

    def add(self, rows: Array) -> None:
        """Rows [G, n, K]."""
        at = 0
        while at < rows.shape[1]:
            taken = min(rows.shape[1] - at, _GROUPED - self._filled)
            if taken == _GROUPED:  # as it is; laid out like the block, so that sums are the same
                self._sum_up(np.ascontiguousarray(rows[:, at : at + taken]))
                at += taken
                continue
            self._block[:, self._filled : self._filled + taken] = rows[:, at : at + taken]
            self._filled += taken
            at += taken
            if self._filled == _GROUPED:
                self._flush()
        self.rows += rows.shape[1]

    def _flush(self) -> None:
        self._sum_up(self._block[:, : self._filled])
        self._filled = 0

    def _sum_up(self, block: Array) -> None:
        turned = block.transpose(0, 2, 1)
        self._sum += turned @ block
        self.total += turned @ _ONES[: block.shape[1]]

    def mean(self) -> Array:
        """The mean outer products."""
        if self._filled:
            self._flush()
        self._sum /= max(self.rows, 1)
        return self._sum
