"""The tile: rows x vectors of sums that stay in registers while K runs by.

    C = left right + A B        A  [K / g, rows, g]       one lane of each row, broadcast
                                B  [K / g, vectors, lanes, g]

The same for every processor: what a lane's product is, `lanes.Lanes` says.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnx_compress.kernels.simd.lanes import Lanes
from onnx_compress.kernels.simd.vectors import I32, I64, broadcast, load, prefetch, store, vector

AHEAD = 2048  # bytes of B that are asked for before they are read
UNROLL = 2  # steps of K in the body of the loop; packed operands are filled up with zeros


def tile(lanes: Lanes, rows: int) -> Any:
    """f(a, b, steps, left, right, next, c, line): all but the steps are addresses or bytes.

    `steps`: K / (group * UNROLL). `left`: two integers for each row, `right` and `right + next`:
    one for each column; rows of C are `line` apart.
    """

    def multiply(
        typing: Any,
        a: Any,
        b: Any,
        steps: Any,
        left: Any,
        right: Any,
        next: Any,
        c: Any,
        line: Any,
    ) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit(builder, lanes, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), build

    return intrinsic(multiply)


def emit(
    builder: Any,
    lanes: Lanes,
    rows: int,
    a: Any,
    b: Any,
    steps: Any,
    left: Any,
    right: Any,
    next: Any,
    c: Any,
    line: Any,
) -> None:
    """Write the instructions of a tile where `builder` stands."""
    sums = _start(builder, lanes, rows, left, right, next)
    _multiply(builder, lanes, rows, a, b, steps, sums)
    for (i, v), place in sums.items():
        row = builder.add(c, builder.mul(line, I64(i)))
        store(builder, builder.load(place), row, 4 * lanes.width * v)


def _start(builder: Any, lanes: Lanes, rows: int, left: Any, right: Any, next: Any) -> Any:
    """Sums that begin with left [rows, 2] times right [2, columns]."""
    kind = vector(I32, lanes.width)
    second = builder.add(right, next)
    sums = {}
    for i in range(rows):
        ends = [
            broadcast(builder, load(builder, left, 4 * (2 * i + j), I32), lanes.width)
            for j in range(2)
        ]
        for v in range(lanes.vectors):
            parts = [
                builder.mul(end, load(builder, start, 4 * lanes.width * v, kind))
                for end, start in zip(ends, (right, second), strict=True)
            ]
            sums[i, v] = cgutils.alloca_once_value(builder, builder.add(*parts))
    return sums


def _multiply(builder: Any, lanes: Lanes, rows: int, a: Any, b: Any, steps: Any, sums: Any) -> None:
    bytes_of_b = lanes.width * lanes.group
    with cgutils.for_range(builder, steps) as loop:
        for part in range(UNROLL):
            step = builder.add(builder.mul(loop.index, I64(UNROLL)), I64(part))
            from_a = builder.add(a, builder.mul(step, I64(4 * rows)))
            from_b = builder.add(b, builder.mul(step, I64(lanes.vectors * bytes_of_b)))
            if rows <= 2:  # as fast as memory, which is slow to begin with each panel
                prefetch(builder, from_b, AHEAD)
            columns = [lanes.load_b(builder, from_b, v * bytes_of_b) for v in range(lanes.vectors)]
            for i in range(rows):
                row = broadcast(builder, load(builder, from_a, 4 * i, I32), lanes.width)
                for v, column in enumerate(columns):
                    place = sums[i, v]
                    builder.store(lanes.dot(builder, builder.load(place), row, column), place)
