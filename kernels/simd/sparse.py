"""Sparse weights in blocks of 256 columns, with one byte for an index.

    for 32 rows of x:  for each block of columns:  for each row of w:  y[32] += sum_p w_p x[k_p, 32]

The part of x that a block of columns reads stays in the first cache, sums stay in registers, and an
index and a value are 5 bytes to read, where CSR has 8.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnx_compress.kernels.machine.compiled import Kernel, kernel
from onnx_compress.kernels.machine.threads import spread
from onnx_compress.kernels.simd.vectors import (
    F32,
    I8,
    I64,
    broadcast,
    call,
    load,
    store,
    vector,
)

if TYPE_CHECKING:
    from onnx_compress.kernels.sparse import SparseMatrix

Array = npt.NDArray[Any]

_BLOCK = 256  # columns
_WIDE = 32  # rows of x at a time
_LANES = {"avx2": 8, "avx512vnni": 16}


def lay_out(
    indptr: Array, indices: Array, blocks: Array, columns: int, path: str
) -> tuple[Array, ...]:
    """Starts uint64 [blocks of columns, N + 1], indices uint8, values float32, block by block."""
    _, height, width = blocks.shape
    rows = (len(indptr) - 1) * height
    across = -(-columns // _BLOCK)
    of_block = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    row = (of_block * height)[:, None, None] + np.arange(height)[:, None] + np.zeros(width, int)
    column = (indices.astype(np.int64) * width)[:, None, None] + np.zeros((height, 1), int)
    column = (column + np.arange(width)).reshape(-1)
    place = column // _BLOCK * rows + row.reshape(-1)
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place, minlength=across * rows)).reshape(across, rows)
    starts = np.zeros((across, rows + 1), np.uint64)
    starts[:, 1:] = ends
    starts[1:, 0] = ends[:-1, -1]
    local = (column % _BLOCK).astype(np.uint8)[order]
    return starts, local, np.ascontiguousarray(blocks.reshape(-1)[order])


def product(x: Array, w: "SparseMatrix", out: Array, threads: int) -> None:
    """Fill `out`, float32 [M, N], from x, float32 [M, K]."""
    starts, indices, values = w.data
    if len(x) == 1:

        def row(start: int, stop: int) -> None:
            _vector(x[0], starts, indices, values, start, stop, out[0])

        spread(row, w.rows, 64, threads)
        return
    panels = -(-len(x) // _WIDE)
    full = np.zeros((panels * _WIDE, w.columns), np.float32)
    full[: len(x)] = x
    turned = np.ascontiguousarray(full.reshape(panels, _WIDE, w.columns).transpose(0, 2, 1))
    sums = np.zeros((panels, w.rows, _WIDE), np.float32)
    loop = _loop(w.path)

    def job(start: int, stop: int) -> None:
        loop(turned, starts, indices, values, start, stop, sums)

    spread(job, w.rows, 64, threads)
    out[...] = sums.transpose(0, 2, 1).reshape(panels * _WIDE, w.rows)[: len(x)]


@kernel(writes=("out",))
def _vector(
    x: Any, starts: Any, indices: Any, values: Any, start: int, stop: int, out: Any
) -> None:
    # unsigned, or each access is tested for counting from the end
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for j in range(start, stop):
        out[j] = 0
    for block in range(starts.shape[0]):
        own = x[block * 256 : (block + 1) * 256]
        for j in range(start, stop):
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            first, last = starts[block, j], starts[block, j + 1]
            p = first
            while p + four <= last:
                a += values[p] * own[indices[p]]
                b += values[p + one] * own[indices[p + one]]
                c += values[p + two] * own[indices[p + two]]
                d += values[p + three] * own[indices[p + three]]
                p += four
            while p < last:
                a += values[p] * own[indices[p]]
                p += one
            out[j] += (a + b) + (c + d)


def _tile(lanes: int) -> Any:
    """f(values, indices, count, x, y): y[32] += sum_p values[p] * x[indices[p], 32]."""

    def accumulate(typing: Any, values: Any, indices: Any, count: Any, x: Any, y: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, lanes, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), build

    return intrinsic(accumulate)


def _emit(builder: Any, lanes: int, values: Any, indices: Any, count: Any, x: Any, y: Any) -> None:
    floats, name = vector(F32, lanes), f"llvm.fma.v{lanes}f32"
    sums = [
        cgutils.alloca_once_value(builder, load(builder, y, 4 * lanes * v, floats))
        for v in range(_WIDE // lanes)
    ]
    with cgutils.for_range(builder, count) as loop:
        value = load(builder, builder.add(values, builder.mul(loop.index, I64(4))), 0, F32)
        index = builder.zext(load(builder, builder.add(indices, loop.index), 0, I8), I64)
        row = builder.add(x, builder.mul(index, I64(4 * _WIDE)))
        weight = broadcast(builder, value, lanes)
        for v, place in enumerate(sums):
            own = load(builder, row, 4 * lanes * v, floats)
            builder.store(call(builder, name, floats, weight, own, builder.load(place)), place)
    for v, place in enumerate(sums):
        store(builder, builder.load(place), y, 4 * lanes * v)


@functools.cache
def _loop(path: str) -> Kernel:
    add = _tile(_LANES[path])
    wide, deep = _WIDE, _BLOCK

    def rows(
        x: Any, starts: Any, indices: Any, values: Any, start: int, stop: int, out: Any
    ) -> None:
        for panel in range(x.shape[0]):
            for block in range(starts.shape[0]):
                own = x.ctypes.data + 4 * wide * (panel * x.shape[1] + block * deep)
                for j in range(start, stop):
                    first = np.int64(starts[block, j])
                    count = np.int64(starts[block, j + 1]) - first
                    y = out.ctypes.data + 4 * wide * (panel * out.shape[1] + j)
                    at = values.ctypes.data + 4 * first
                    add(at, indices.ctypes.data + first, count, own, y)

    return Kernel(rows, ("out",), path)
