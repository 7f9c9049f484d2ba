"""Products of unsigned and signed bytes, in tiles.

    B int8 [K, N] -> [panels, K / g, columns, g]        A uint8 [M, K] -> tiles [K / g, rows, g]

A panel of B is multiplied with all tiles of A before the next: it stays in the second cache.

On AVX2 four bytes at a time (vpmaddubsw) would saturate where b0 + b1, of one sign, passes 128: 255
times that is 2^15. Such pairs are few in weights with a scale for each column. What they have above
128 is taken out of B and added apart, entry by entry; where they are not few, B is widened to 16
bits instead (vpmaddwd), at 4 instructions for what takes 3. Both are exact.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import Kernel, kernel
from onnx_compress.kernels.machine.threads import spread
from onnx_compress.kernels.simd.lanes import LANES, Lanes
from onnx_compress.kernels.simd.rows import tiles
from onnx_compress.kernels.simd.tile import UNROLL, tile

Array = npt.NDArray[Any]

_ROWS = 6  # of the largest tile
_FEW = 0.015  # share of codes; each costs what 7 do in a tile, which wins a fifth


@dataclass(frozen=True)
class Panels:
    """B [panels, steps, columns, group] for one `kind` of lanes, and what was taken out of it.

    `entries`: int64 [3, E] of rows of B, columns within a panel, and values; those of panel p are
    starts[p] to starts[p + 1].
    """

    kind: str
    data: Array
    starts: Array
    entries: Array


def lay_out(b: Array, path: str, saturate: bool) -> Panels:
    """Lay out B, int8 [K, N], filled up with zeros."""
    excess = np.zeros((0, 0), np.int8)
    kind = "bytes"
    if path == "avx512vnni" and saturate:
        kind = "saturating"
    elif path == "avx2" and not saturate:
        excess = _excess(b)
        if np.count_nonzero(excess) > _FEW * b.size:
            kind, excess = "pairs", np.zeros((0, 0), np.int8)
    lanes = LANES[path, kind]
    count = -(-b.shape[1] // lanes.columns)
    deep = lanes.group * UNROLL
    steps = -(-b.shape[0] // deep) * UNROLL
    out = np.zeros((count, steps, lanes.columns, lanes.group), np.int8)
    if b.size:
        _panels(np.ascontiguousarray(b - excess if excess.size else b), out)
    columns, rows = np.nonzero(excess.T)
    panels, within = np.divmod(columns, lanes.columns)
    starts = np.searchsorted(panels, np.arange(count + 1))
    return Panels(
        kind, out, starts, np.stack([rows, within, excess[rows, columns]], dtype=np.int64)
    )


def product(
    a: Array, b: Panels, left: Array, right: Array, out: Array, path: str, threads: int
) -> None:
    """Fill `out`, int32 [M, N], from a, uint8 [M, K], and b laid out."""
    packed = tiles(a, LANES[path, b.kind].group, _ROWS, b.data.shape[1])
    loop = _loop(path, b.kind)
    wide = np.zeros((2, len(b.data) * b.data.shape[2]), np.int32)
    wide[:, : right.shape[1]] = right
    turned = np.ascontiguousarray(a.T) if b.entries.size else a

    def job(start: int, stop: int) -> None:
        loop(packed, b.data, left, wide, start, stop, out)
        if b.entries.size:
            _add(turned, b.starts, b.entries, b.data.shape[2], start, stop, out)

    spread(job, len(b.data), 1, threads)


def _excess(b: Array) -> Array:
    """int8 [K, N]: what pairs have above 128 or below -128, where the larger of them stands."""
    out = np.zeros(b.shape, np.int8)
    if not b.size or (int(b.max()) <= 64 and int(b.min()) >= -64):
        return out
    whole = len(b) - len(b) % 2
    first, second = b[:whole:2].astype(np.int16), b[1:whole:2].astype(np.int16)
    sums = first + second
    alike = (first ^ second) >= 0
    over = np.where(alike, sums - np.clip(sums, -128, 128), 0)
    larger = np.abs(first) >= np.abs(second)
    out[:whole:2] = np.where(larger, over, 0)
    out[1:whole:2] = np.where(larger, 0, over)
    return out


@kernel(writes=("out",))
def _add(a: Any, starts: Any, entries: Any, wide: int, start: int, stop: int, out: Any) -> None:
    """out[:, j] += a[k, :] * value for each entry of the panels; a is turned, [K, M]."""
    count = a.shape[1]
    sums = np.empty((wide, count), np.int32)
    for p in range(start, stop):
        if starts[p] == starts[p + 1]:
            continue
        sums[:] = 0
        for e in range(starts[p], starts[p + 1]):
            k, j, value = entries[0, e], entries[1, e], np.int32(entries[2, e])
            for i in range(count):
                sums[j, i] += np.int32(a[k, i]) * value
        for i in range(count):
            for j in range(min(wide, out.shape[1] - p * wide)):
                out[i, p * wide + j] += sums[j, i]


@kernel(writes=("out",))
def _panels(b: Any, out: Any) -> None:
    size, columns = b.shape
    panels, _, wide, group = out.shape
    for p in range(panels):
        last = min(wide, columns - p * wide)
        for k in range(size):
            step, part = k // group, k % group
            for j in range(last):
                out[p, step, j, part] = b[k, p * wide + j]


@functools.cache
def _loop(path: str, kind: str) -> Kernel:
    lanes: Lanes = LANES[path, kind]
    six, four, two, one = (tile(lanes, rows) for rows in (_ROWS, 4, 2, 1))
    wide, unroll, codes = lanes.columns, UNROLL, lanes.group

    def panels(a: Any, b: Any, left: Any, right: Any, start: int, stop: int, out: Any) -> None:
        count, steps = a.shape
        edge = np.empty((6, wide), np.int32)  # sums of the last panel, where it is not full
        for p in range(start, stop):
            at_b = b.ctypes.data + p * steps * wide * codes
            at_r = right.ctypes.data + 4 * p * wide
            row = 4 * right.shape[1]
            last = out.shape[1] - p * wide
            first = 0
            while first < count:
                at_a = a.ctypes.data + first * steps * 4
                at_l = left.ctypes.data + 8 * first
                more = count - first
                rows = 6 if more >= 6 else 4 if more >= 4 else 2 if more >= 2 else 1
                c, line = out.ctypes.data + 4 * (first * out.shape[1] + p * wide), 4 * out.shape[1]
                if last < wide:
                    c, line = edge.ctypes.data, 4 * wide
                if rows == 6:
                    six(at_a, at_b, steps // unroll, at_l, at_r, row, c, line)
                elif rows == 4:
                    four(at_a, at_b, steps // unroll, at_l, at_r, row, c, line)
                elif rows == 2:
                    two(at_a, at_b, steps // unroll, at_l, at_r, row, c, line)
                else:
                    one(at_a, at_b, steps // unroll, at_l, at_r, row, c, line)
                if last < wide:
                    for i in range(rows):
                        for j in range(last):
                            out[first + i, p * wide + j] = edge[i, j]
                first += rows

    return Kernel(panels, ("out",), f"{path} {kind}")
