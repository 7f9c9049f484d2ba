"""Signs on AVX2, four products in a look-up: vpshufb.

    table[a][w] = popcount(a xor w)             counts[i, 32 columns] += table[a_i][w of 32 columns]

A table is 16 bytes, one for each nibble a. A look-up gives 4 products of 32 columns, twice what
counting the bits of words does there. Sums of bytes are moved to 32 bits before they could
overflow, after 31 bytes of K. With AVX-512 the compiler makes vpopcntq of the plain loops, which is
better still.

Source: the table is that of Mula, Kurz, Lemire, Faster Population Counts Using AVX2 Instructions.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnx_compress.kernels.loops import binary as words_of_64
from onnx_compress.kernels.machine.compiled import Kernel
from onnx_compress.kernels.machine.threads import spread
from onnx_compress.kernels.simd.vectors import I8, I32, I64, call, load, store, vector

if TYPE_CHECKING:
    from onnx_compress.kernels.binary import SignMatrix

Array = npt.NDArray[Any]

_VECTORS = 4  # of 32 columns in a panel
_WIDE = 32 * _VECTORS
_FEW = 4  # rows, for which taking bytes apart into nibbles does not pay
_MOST = 31  # bytes of K, each counting 8 at most, in a sum of 8 bits


def lay_out(words: Array, path: str) -> tuple[Array, ...]:
    """Words as they are, uint64 [N, W], and on AVX2 also as bytes [panels, K / 8, 128 columns]."""
    if path != "avx2":
        return words_of_64.lay_out(words, path)
    rows = words.shape[0]
    raw = words.astype("<u8", copy=False).view(np.uint8)
    full = np.zeros((-(-rows // _WIDE) * _WIDE, raw.shape[1]), np.uint8)
    full[:rows] = raw
    turned = full.reshape(-1, _WIDE, raw.shape[1]).transpose(0, 2, 1)
    return words, np.ascontiguousarray(turned)


def product(a: Array, b: "SignMatrix", out: Array, threads: int) -> None:
    """Fill `out`, int32 [M, N], from a, uint64 [M, words]."""
    if b.path != "avx2" or len(a) < _FEW:
        words_of_64.product(a, b, out, threads)
        return
    raw = a.astype("<u8", copy=False).view(np.uint8)
    places = np.empty((*raw.shape, 2), np.uint8)  # of the tables of both nibbles, in bytes
    places[..., 0] = raw << np.uint8(4)
    places[..., 1] = raw & np.uint8(0xF0)
    nibbles = np.arange(16, dtype=np.uint8)
    differ = np.unpackbits((nibbles[:, None] ^ nibbles)[..., None], axis=-1)
    tables = differ.sum(-1, dtype=np.uint8)
    loop, panels = _loop(), b.data[1]

    def job(start: int, stop: int) -> None:
        loop(places, tables, panels, b.columns, start, stop, out)

    spread(job, len(panels), 1, threads)


def _look_up(rows: int) -> Any:
    """f(places, line, tables, w, steps, c): counts of `rows` rows and a panel, added to c."""

    def count(typing: Any, places: Any, line: Any, tables: Any, w: Any, steps: Any, c: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), build

    return intrinsic(count)


def _emit(
    builder: Any, rows: int, places: Any, line: Any, tables: Any, w: Any, steps: Any, c: Any
) -> None:
    """w: nibbles [steps, 2, vectors, 32 bytes]; c: int32 [rows, vectors, 32]."""
    half, codes = vector(I8, 16), vector(I8, 32)
    twice = ir.Constant(vector(I32, 32), [*range(16), *range(16)])
    zero = ir.Constant(codes, None)
    sums = {
        (i, v): cgutils.alloca_once_value(builder, zero)
        for i in range(rows)
        for v in range(_VECTORS)
    }
    with cgutils.for_range(builder, steps) as loop:
        for part in range(2):
            step = builder.add(builder.mul(loop.index, I64(2)), I64(part))
            own_w = builder.add(w, builder.mul(step, I64(32 * _VECTORS)))
            found = []
            for i in range(rows):
                row = builder.add(builder.add(places, builder.mul(line, I64(i))), step)
                place = builder.zext(load(builder, row, 0, I8), I64)
                table = load(builder, builder.add(tables, place), 0, half)
                found.append(builder.shuffle_vector(table, table, twice))
            for v in range(_VECTORS):
                nibbles = load(builder, own_w, 32 * v, codes)
                for i, table in enumerate(found):
                    more = call(builder, "llvm.x86.avx2.pshuf.b", codes, table, nibbles)
                    builder.store(builder.add(builder.load(sums[i, v]), more), sums[i, v])
    wide = vector(I32, 32)
    for (i, v), place in sums.items():
        at = 4 * (i * _WIDE + 32 * v)
        more = builder.zext(builder.load(place), wide)
        store(builder, builder.add(load(builder, c, at, wide), more), c, at)


@functools.cache
def _loop() -> Kernel:
    two, one = _look_up(2), _look_up(1)
    wide, most = _WIDE, _MOST

    def panels(
        places: Any, tables: Any, b: Any, columns: int, start: int, stop: int, out: Any
    ) -> None:
        count, size = places.shape[0], places.shape[1]
        nibbles = np.empty((most, 2, wide), np.uint8)
        counts = np.empty((count, wide), np.int32)
        for p in range(start, stop):
            counts[:] = 0
            for k in range(0, size, most):
                steps = min(most, size - k)
                for step in range(steps):
                    for j in range(wide):
                        nibbles[step, 0, j] = b[p, k + step, j] & np.uint8(15)
                        nibbles[step, 1, j] = b[p, k + step, j] >> np.uint8(4)
                w, line = nibbles.ctypes.data, 2 * size
                for i in range(0, count - 1, 2):
                    at = places.ctypes.data + i * line + 2 * k
                    c = counts.ctypes.data + i * wide * 4
                    two(at, line, tables.ctypes.data, w, steps, c)
                if count % 2:
                    at = places.ctypes.data + (count - 1) * line + 2 * k
                    c = counts.ctypes.data + (count - 1) * wide * 4
                    one(at, line, tables.ctypes.data, w, steps, c)
            last = min(wide, out.shape[1] - p * wide)
            for i in range(count):
                for j in range(last):
                    out[i, p * wide + j] = columns - 2 * counts[i, j]

    return Kernel(panels, ("out",), "avx2")
