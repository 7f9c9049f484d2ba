"""Signs in words of 64, their differences counted one word at a time.

The count is written out in arithmetic, which the compiler knows for one: with AVX-512 it becomes
vpopcntq, elsewhere popcnt.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel
from onnx_compress.kernels.machine.threads import spread

if TYPE_CHECKING:
    from onnx_compress.kernels.binary import SignMatrix

Array = npt.NDArray[Any]


def lay_out(words: Array, path: str) -> tuple[Array, ...]:
    """As they are: uint64 [N, words]."""
    return (words,)


def product(a: Array, b: "SignMatrix", out: Array, threads: int) -> None:
    """Fill `out`, int32 [M, N], from a, uint64 [M, words]."""
    words = b.data[0]
    spread(lambda start, stop: _dots(a, words, b.columns, start, stop, out), b.rows, 64, threads)


@kernel(writes=("out",))
def _dots(a: Any, b: Any, columns: int, start: int, stop: int, out: Any) -> None:
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    fives, threes = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    nibbles, ones = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    for j in range(start, stop):
        for i in range(a.shape[0]):
            count = np.uint64(0)
            for k in range(a.shape[1]):
                v = a[i, k] ^ b[j, k]
                v -= (v >> one) & fives
                v = (v & threes) + ((v >> two) & threes)
                v = (v + (v >> four)) & nibbles
                count += (v * ones) >> np.uint64(56)
            out[i, j] = columns - 2 * np.int64(count)
