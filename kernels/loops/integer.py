"""Products of unsigned and signed bytes, in plain loops.

out[i, j] = sum_k a[i, k] b[j, k] + left[i] . right[:, j]
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel
from onnx_compress.kernels.machine.threads import spread

Array = npt.NDArray[Any]


def lay_out(b: Array, path: str, saturate: bool) -> tuple[bool, Array]:
    """Whether to saturate, and B, int8 [K, N], as [N, K]."""
    return saturate, np.ascontiguousarray(b.T)


def product(
    a: Array,
    b: tuple[bool, Array],
    left: Array,
    right: Array,
    out: Array,
    path: str,
    threads: int,
) -> None:
    """Fill `out`, int32 [M, N], from a, uint8 [M, K], and b laid out."""
    saturate, turned = b
    loop = _saturating if saturate else _exact

    def job(start: int, stop: int) -> None:
        loop(a, turned, left, right, start, stop, out)

    spread(job, len(turned), 16, threads)


@kernel(writes=("out",))
def _exact(a: Any, b: Any, left: Any, right: Any, start: int, stop: int, out: Any) -> None:
    for j in range(start, stop):
        for i in range(a.shape[0]):
            total = np.int32(left[i, 0] * right[0, j] + left[i, 1] * right[1, j])
            for k in range(a.shape[1]):
                total = np.int32(total + np.int32(a[i, k]) * np.int32(b[j, k]))
            out[i, j] = total


@kernel(writes=("out",))
def _saturating(a: Any, b: Any, left: Any, right: Any, start: int, stop: int, out: Any) -> None:
    size = a.shape[1]
    lowest, highest = np.int32(-32768), np.int32(32767)
    for j in range(start, stop):
        for i in range(a.shape[0]):
            total = np.int32(left[i, 0] * right[0, j] + left[i, 1] * right[1, j])
            for pair in range(size // 2):
                first = np.int32(a[i, 2 * pair]) * np.int32(b[j, 2 * pair])
                second = np.int32(a[i, 2 * pair + 1]) * np.int32(b[j, 2 * pair + 1])
                pair_sum = min(max(np.int32(first + second), lowest), highest)
                total = np.int32(total + pair_sum)
            if size % 2:
                total = np.int32(total + np.int32(a[i, size - 1]) * np.int32(b[j, size - 1]))
            out[i, j] = total
