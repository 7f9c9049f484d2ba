"""Products of unsigned and signed bytes, in tiles.

    B int8 [K, N] -> [panels, K / g, columns, g]        A uint8 [M, K] -> tiles [K / g, rows, g]

A panel of B is multiplied with all tiles of A before the next: it stays in the second cache.

On AVX2 four bytes at a time (vpmaddubsw) would saturate, so B is widened to 16 bits (vpmaddwd), at
4 instructions for what takes 3; unless no pair of B can: |b0 + b1| of one sign <= 128 times 255 is
below 2^15. Codes of 7 bits and less are always such, and so both are exact.
"""

import functools
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


def lay_out(b: Array, path: str, saturate: bool) -> tuple[str, Array]:
    """Kind of lanes, and B, int8 [K, N], as [panels, steps, columns, group], the rest zeros."""
    kind = "bytes"
    if path == "avx512vnni" and saturate:
        kind = "saturating"
    elif path == "avx2" and not saturate and _can_saturate(b):
        kind = "pairs"
    lanes = LANES[path, kind]
    deep = lanes.group * UNROLL
    steps = -(-b.shape[0] // deep) * UNROLL
    out = np.zeros((-(-b.shape[1] // lanes.columns), steps, lanes.columns, lanes.group), np.int8)
    if b.size:
        _panels(np.ascontiguousarray(b), out)
    return kind, out


def product(
    a: Array,
    b: tuple[str, Array],
    left: Array,
    right: Array,
    out: Array,
    path: str,
    threads: int,
) -> None:
    """Fill `out`, int32 [M, N], from a, uint8 [M, K], and b laid out."""
    kind, panels = b
    packed = tiles(a, LANES[path, kind].group, _ROWS, panels.shape[1])
    loop = _loop(path, kind)
    wide = np.zeros((2, len(panels) * panels.shape[2]), np.int32)
    wide[:, : right.shape[1]] = right

    def job(start: int, stop: int) -> None:
        loop(packed, panels, left, wide, start, stop, out)

    spread(job, len(panels), 1, threads)


def _can_saturate(b: Array) -> bool:
    """Whether a pair of products with 255 can leave 16 bits."""
    if not b.size or (int(b.max()) <= 64 and int(b.min()) >= -64):
        return False
    wide = np.zeros((b.shape[0] + b.shape[0] % 2, b.shape[1]), np.int16)
    wide[: len(b)] = b
    above, below = np.maximum(wide, 0), np.minimum(wide, 0)
    return bool(
        (above[::2] + above[1::2]).max(initial=0) > 128
        or (below[::2] + below[1::2]).min(initial=0) < -128
    )


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
