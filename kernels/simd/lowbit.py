"""The tile for codes of 2, 4 and 8 bits in blocks, with int8 or float activations.

    W  [blocks, steps, vectors, lanes * 4 bytes]      a byte holds codes of one column, 4 k apart
    x  [K / 4, rows] lanes of int8, or [K, rows] floats

    level 4    y += float32(sum_k u x - z sum x) * (t s)        level 0    y += x * ((u - z) * s)

u * x is small enough for pairs to stay in 16 bits, and for eight of them: vpmaddubsw is exact here.
With 8 bits, a byte is two codes of 4 bits with weights 1 and 16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnx_compress.kernels.simd.lanes import vnni
from onnx_compress.kernels.simd.vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    broadcast,
    call,
    fill,
    load,
    prefetch,
    store,
    vector,
)

AHEAD = 2048  # bytes that few rows ask for before they are read
CHUNK = 32  # k between moves from 16 to 32 bits; 8 quads of at most 2 * 15 * 128


@dataclass(frozen=True)
class Small:
    """Products of small unsigned bytes and int8, in lanes of 32 bits.

    `add(builder, sums, u, x)` adds to sums of type `kind`; `total(builder, sums, weight)` makes of
    them int32 lanes. `nibbles`: 8 bits have to be split.
    """

    width: int
    vectors: int
    nibbles: bool
    kind: Any
    add: Callable[[Any, Any, Any, Any], Any]
    total: Callable[[Any, Any, int], Any]


def _add_words(builder: Any, sums: Any, u: Any, x: Any) -> Any:
    return builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), u, x))


def _total_words(builder: Any, sums: Any, weight: int) -> Any:
    ones = fill(vector(I16, 16), weight)
    return call(builder, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), sums, ones)


def _add_lanes(builder: Any, sums: Any, u: Any, x: Any) -> Any:
    lanes = sums.type
    return vnni(builder, sums, builder.bitcast(u, lanes), builder.bitcast(x, lanes))


SMALL = {
    "avx2": Small(8, 2, True, vector(I16, 16), _add_words, _total_words),
    "avx512vnni": Small(
        16, 2, False, vector(I32, 16), _add_lanes, lambda builder, sums, weight: sums
    ),
}


def steps_of(bits: int, size: int) -> int:
    """Vectors of bytes in `size` codes of a column."""
    return size * bits // 32


def integer_tile(small: Small, bits: int, rows: int, chunk: int, even: bool) -> Any:
    """f(x, t, w, s, z, blocks, chunks, c): addresses, and counts of blocks and chunks in each.

    t: float32 [blocks, 2, rows], scales and sums of x in a block, the latter times z where `even`
    (z is the same everywhere). s, z: float32 [blocks, columns]. c: float32 [rows, columns].
    """

    def multiply(
        typing: Any, x: Any, t: Any, w: Any, s: Any, z: Any, blocks: Any, chunks: Any, c: Any
    ) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit(builder, small, bits, rows, chunk, even, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), build

    return intrinsic(multiply)


def emit(
    builder: Any,
    small: Small,
    bits: int,
    rows: int,
    chunk: int,
    even: bool,
    x: Any,
    t: Any,
    w: Any,
    s: Any,
    z: Any,
    blocks: Any,
    chunks: Any,
    c: Any,
) -> None:
    """Write the instructions of an integer tile where `builder` stands."""
    floats, ints = vector(F32, small.width), vector(I32, small.width)
    places = [(i, v) for i in range(rows) for v in range(small.vectors)]
    zero = ir.Constant(floats, None)
    totals = {place: cgutils.alloca_once_value(builder, zero) for place in places}
    dots = {place: cgutils.alloca_once(builder, ints) for place in places}
    columns = small.width * small.vectors
    with cgutils.for_range(builder, blocks) as block:
        for place in places:
            builder.store(ir.Constant(ints, None), dots[place])
        with cgutils.for_range(builder, chunks) as part:
            at = builder.add(builder.mul(block.index, chunks), part.index)
            own_w = builder.add(w, builder.mul(at, I64(4 * columns * steps_of(bits, chunk))))
            own_x = builder.add(x, builder.mul(at, I64(chunk * rows)))
            _chunk(builder, small, bits, rows, chunk, own_x, own_w, dots)
        own_t = builder.add(t, builder.mul(block.index, I64(8 * rows)))
        own_s = builder.mul(block.index, I64(4 * columns))
        for v in range(small.vectors):
            scale = load(builder, builder.add(s, own_s), 4 * small.width * v, floats)
            if not even:
                middle = load(builder, builder.add(z, own_s), 4 * small.width * v, floats)
            for i in range(rows):
                less = broadcast(builder, load(builder, own_t, 4 * (rows + i), F32), small.width)
                if not even:
                    less = builder.fmul(middle, less)
                row = broadcast(builder, load(builder, own_t, 4 * i, F32), small.width)
                whole = builder.fsub(builder.sitofp(builder.load(dots[i, v]), floats), less)
                scaled = builder.fmul(whole, builder.fmul(row, scale))
                place = totals[i, v]
                builder.store(builder.fadd(builder.load(place), scaled), place)
    for i, v in places:
        store(builder, builder.load(totals[i, v]), c, 4 * (i * columns + small.width * v))


def _chunk(
    builder: Any, small: Small, bits: int, rows: int, chunk: int, x: Any, w: Any, dots: Any
) -> None:
    """Add the products of one chunk to `dots`."""
    codes = vector(I8, 4 * small.width)
    split = bits == 8 and small.nibbles
    width = 4 if split else bits
    weights = (1, 16) if split else (1,)
    sums: dict[tuple[int, int, int], Any] = {}
    for step in range(steps_of(bits, chunk)):
        for v in range(small.vectors):
            offset = 4 * small.width * (step * small.vectors + v)
            if rows <= 2:
                prefetch(builder, w, offset + AHEAD)
            packed = load(builder, w, offset, codes)
            for quad in range(8 // width):
                u = packed
                if quad:
                    u = builder.lshr(u, fill(codes, quad * width))
                if width < 8:
                    u = builder.and_(u, fill(codes, 2**width - 1))
                k = step if split else step * (8 // bits) + quad
                plane = quad if split else 0
                for i in range(rows):
                    lane = load(builder, x, 4 * (k * rows + i), I32)
                    own = builder.bitcast(broadcast(builder, lane, small.width), codes)
                    before = sums.get((i, v, plane), ir.Constant(small.kind, None))
                    sums[i, v, plane] = small.add(builder, before, u, own)
    for (i, v, plane), value in sums.items():
        place = dots[i, v]
        more = small.total(builder, value, weights[plane])
        builder.store(builder.add(builder.load(place), more), place)


def float_tile(small: Small, bits: int, rows: int) -> Any:
    """f(x, w, s, z, blocks, steps, c): as `integer_tile`; x float32 [K, rows], steps in a block."""

    def multiply(
        typing: Any, x: Any, w: Any, s: Any, z: Any, blocks: Any, steps: Any, c: Any
    ) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _float(builder, small, bits, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), build

    return intrinsic(multiply)


def _float(
    builder: Any,
    small: Small,
    bits: int,
    rows: int,
    x: Any,
    w: Any,
    s: Any,
    z: Any,
    blocks: Any,
    steps: Any,
    c: Any,
) -> None:
    floats, ints = vector(F32, small.width), vector(I32, small.width)
    columns, name = small.width * small.vectors, f"llvm.fma.v{small.width}f32"
    places = [(i, v) for i in range(rows) for v in range(small.vectors)]
    zero = ir.Constant(floats, None)
    totals = {place: cgutils.alloca_once_value(builder, zero) for place in places}
    each = 32 // bits
    with (
        cgutils.for_range(builder, blocks) as block,
        cgutils.for_range(builder, steps) as part,
    ):
        at = builder.add(builder.mul(block.index, steps), part.index)
        own_s = builder.mul(block.index, I64(4 * columns))
        own_x = builder.add(x, builder.mul(at, I64(4 * each * rows)))
        for v in range(small.vectors):
            offset = 4 * small.width * v
            packed = load(builder, builder.add(w, builder.mul(at, I64(4 * columns))), offset, ints)
            scale = load(builder, builder.add(s, own_s), offset, floats)
            middle = load(builder, builder.add(z, own_s), offset, floats)
            for k in range(each):
                # code k of a column is byte k % 4 of its lane, from bit k // 4 * bits
                u = builder.lshr(packed, fill(ints, k % 4 * 8 + k // 4 * bits))
                u = builder.sitofp(builder.and_(u, fill(ints, 2**bits - 1)), floats)
                value = builder.fmul(builder.fsub(u, middle), scale)
                for i in range(rows):
                    one = load(builder, own_x, 4 * (k * rows + i), F32)
                    row = broadcast(builder, one, small.width)
                    place = totals[i, v]
                    more = call(builder, name, floats, row, value, builder.load(place))
                    builder.store(more, place)
    for i, v in places:
        store(builder, builder.load(totals[i, v]), c, 4 * (i * columns + small.width * v))
