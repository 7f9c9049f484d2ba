"""Weights of few bits, in tiles.

    packed [N, blocks, bytes]  ->  [panels, blocks, steps, columns, 4 bytes]

In a lane of four bytes, code k of a column is byte k % 4, from bit k // 4 * bits: so that one mask
gives four neighbouring codes of each column, the four that a lane of int8 activations meets.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import Kernel, kernel
from onnx_compress.kernels.machine.threads import spread
from onnx_compress.kernels.packing import unpack
from onnx_compress.kernels.simd.lowbit import CHUNK, SMALL, float_tile, integer_tile, steps_of
from onnx_compress.kernels.simd.rows import float_tiles, tiles

if TYPE_CHECKING:
    from onnx_compress.kernels.nbits import BlockCodes, BlockMatrix

Array = npt.NDArray[Any]

_ROWS = 4  # of the largest tile


def lay_out(codes: "BlockCodes", path: str) -> tuple[Array, ...]:
    """Codes as above (uint8), scales and zero points float32 [panels, blocks, columns]."""
    small = SMALL[path]
    wide = small.width * small.vectors
    panels = -(-codes.rows // wide)
    steps = steps_of(codes.bits, codes.block_size)
    out = np.zeros((panels, codes.blocks, steps, wide, 4), np.uint8)
    flat = unpack(codes.packed.reshape(codes.rows, -1), codes.bits)
    if flat.size:
        _lanes(flat.reshape(codes.rows, codes.blocks, -1), codes.bits, out)
    spread_out = []
    for array in (codes.scales, codes.zero_points):
        full = np.zeros((panels * wide, codes.blocks), np.float32)
        full[: codes.rows] = array
        spread_out.append(
            np.ascontiguousarray(full.reshape(panels, wide, codes.blocks).transpose(0, 2, 1))
        )
    return (out, *spread_out)


def product(x: Array, x_scales: Array, weights: "BlockMatrix", out: Array, threads: int) -> None:
    """Fill `out`, float32 [M, N], at level 4 from x, int8 [M, blocks * block_size]."""
    codes, (w, s, z) = weights.codes, weights.data
    blocks, size = codes.blocks, codes.block_size
    middle = codes.zero_points.flat[0]
    even = bool((codes.zero_points == middle).all())
    sums = x.reshape(len(x), blocks, size).sum(2, dtype=np.int32).astype(np.float32)
    scales = np.empty((len(x), blocks, 2), np.float32)
    scales[..., 0] = x_scales
    scales[..., 1] = sums * middle if even else sums
    chunk = min(size, CHUNK)
    lanes = tiles(x, 4, _ROWS, blocks * size // 4)
    t = float_tiles(scales.reshape(len(x), -1), _ROWS, 2 * blocks)
    loop = _integer_loop(weights.path, codes.bits, chunk, even)

    def job(start: int, stop: int) -> None:
        loop(lanes, t, w, s, z, size // chunk, start, stop, out)

    spread(job, len(w), 1, threads)


def float_product(x: Array, weights: "BlockMatrix", out: Array, threads: int) -> None:
    """Fill `out`, float32 [M, N], at level 0 from x, float32 [M, K]."""
    codes, (w, s, z) = weights.codes, weights.data
    packed = float_tiles(x, _ROWS, codes.blocks * codes.block_size)
    loop = _float_loop(weights.path, codes.bits)

    def job(start: int, stop: int) -> None:
        loop(packed, w, s, z, start, stop, out)

    spread(job, len(w), 1, threads)


@kernel(writes=("out",))
def _lanes(codes: Any, bits: int, out: Any) -> None:
    rows, blocks, size = codes.shape
    wide = out.shape[3]
    each = 32 // bits
    for n in range(rows):
        for b in range(blocks):
            for k in range(size):
                within = k % each
                shifted = codes[n, b, k] << np.uint8(within // 4 * bits)
                out[n // wide, b, k // each, n % wide, within % 4] |= np.uint8(shifted)


@functools.cache
def _integer_loop(path: str, bits: int, chunk: int, even: bool) -> Kernel:
    small = SMALL[path]
    four, two, one = (integer_tile(small, bits, rows, chunk, even) for rows in (4, 2, 1))
    wide = small.width * small.vectors

    def panels(
        x: Any, t: Any, w: Any, s: Any, z: Any, chunks: int, start: int, stop: int, out: Any
    ) -> None:
        count, blocks = x.shape[0], w.shape[1]
        c = np.empty((4, wide), np.float32)
        at_c = c.ctypes.data
        for p in range(start, stop):
            at_w = w.ctypes.data + p * blocks * w.shape[2] * wide * 4
            at_s = s.ctypes.data + p * blocks * wide * 4
            at_z = z.ctypes.data + p * blocks * wide * 4
            last = min(wide, out.shape[1] - p * wide)
            first = 0
            while first < count:
                at_x = x.ctypes.data + first * x.shape[1] * 4
                at_t = t.ctypes.data + first * t.shape[1] * 4
                more = count - first
                rows = 4 if more >= 4 else 2 if more >= 2 else 1
                if rows == 4:
                    four(at_x, at_t, at_w, at_s, at_z, blocks, chunks, at_c)
                elif rows == 2:
                    two(at_x, at_t, at_w, at_s, at_z, blocks, chunks, at_c)
                else:
                    one(at_x, at_t, at_w, at_s, at_z, blocks, chunks, at_c)
                for i in range(rows):
                    for j in range(last):
                        out[first + i, p * wide + j] = c[i, j]
                first += rows

    return Kernel(panels, ("out",), f"{path} {bits} {chunk} {even}")


@functools.cache
def _float_loop(path: str, bits: int) -> Kernel:
    small = SMALL[path]
    four, two, one = (float_tile(small, bits, rows) for rows in (4, 2, 1))
    wide = small.width * small.vectors

    def panels(x: Any, w: Any, s: Any, z: Any, start: int, stop: int, out: Any) -> None:
        count, blocks, steps = x.shape[0], w.shape[1], w.shape[2]
        c = np.empty((4, wide), np.float32)
        at_c = c.ctypes.data
        for p in range(start, stop):
            at_w = w.ctypes.data + p * blocks * steps * wide * 4
            at_s = s.ctypes.data + p * blocks * wide * 4
            at_z = z.ctypes.data + p * blocks * wide * 4
            last = min(wide, out.shape[1] - p * wide)
            first = 0
            while first < count:
                at_x = x.ctypes.data + first * x.shape[1] * 4
                more = count - first
                rows = 4 if more >= 4 else 2 if more >= 2 else 1
                if rows == 4:
                    four(at_x, at_w, at_s, at_z, blocks, steps, at_c)
                elif rows == 2:
                    two(at_x, at_w, at_s, at_z, blocks, steps, at_c)
                else:
                    one(at_x, at_w, at_s, at_z, blocks, steps, at_c)
                for i in range(rows):
                    for j in range(last):
                        out[first + i, p * wide + j] = c[i, j]
                first += rows

    return Kernel(panels, ("out",), f"{path} {bits} float")
