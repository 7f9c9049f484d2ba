"""The tile: rows x vectors of sums that stay in registers while K runs by.

    A  [K / g, rows, g]         one lane of each row, broadcast
    B  [K / g, vectors, lanes, g]                                        C [rows, vectors, lanes] +=

The same for every processor: what a lane's product is, `lanes.Lanes` says.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from onnx_compress.kernels.simd.lanes import Lanes
from onnx_compress.kernels.simd.vectors import I32, I64, broadcast, load, store, vector

UNROLL = 2  # steps of K in the body of the loop; packed operands are filled up with zeros


def tile(lanes: Lanes, rows: int) -> Any:
    """f(a, b, steps, c): addresses of the operands, K / (group * UNROLL), and of the sums."""

    @intrinsic
    def multiply(typing: Any, a: Any, b: Any, steps: Any, c: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, lanes, rows, *arguments)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp, types.intp), build

    return multiply


def _emit(builder: Any, lanes: Lanes, rows: int, a: Any, b: Any, steps: Any, c: Any) -> None:
    kind = vector(I32, lanes.width)
    bytes_of_b = lanes.width * lanes.group
    places = [(i, v) for i in range(rows) for v in range(lanes.vectors)]
    sums = {}
    for at, place in enumerate(places):
        sums[place] = cgutils.alloca_once_value(builder, load(builder, c, 4 * lanes.width * at, kind))
    with cgutils.for_range(builder, steps) as loop:
        for part in range(UNROLL):
            step = builder.add(builder.mul(loop.index, I64(UNROLL)), I64(part))
            from_a = builder.mul(step, I64(4 * rows))
            from_b = builder.mul(step, I64(lanes.vectors * bytes_of_b))
            columns = [
                lanes.load_b(builder, builder.add(b, from_b), v * bytes_of_b)
                for v in range(lanes.vectors)
            ]
            for i in range(rows):
                one = load(builder, builder.add(a, from_a), 4 * i, I32)
                row = broadcast(builder, one, lanes.width)
                for v, column in enumerate(columns):
                    place = sums[i, v]
                    builder.store(lanes.dot(builder, builder.load(place), row, column), place)
    for at, place in enumerate(places):
        store(builder, builder.load(sums[place]), c, 4 * lanes.width * at)

