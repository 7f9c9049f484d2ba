"""Weights of few bits, in plain loops over codes that were unpacked before."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel
from onnx_compress.kernels.machine.threads import spread
from onnx_compress.kernels.packing import unpack

if TYPE_CHECKING:
    from onnx_compress.kernels.nbits import BlockCodes, BlockMatrix

Array = npt.NDArray[Any]


def lay_out(codes: "BlockCodes", path: str) -> tuple[Array, ...]:
    """Codes uint8 [N, blocks * block_size]."""
    return (unpack(codes.packed.reshape(codes.rows, -1), codes.bits),)


def product(x: Array, x_scales: Array, weights: "BlockMatrix", out: Array, threads: int) -> None:
    """Fill `out`, float32 [M, N], at level 4 from x, int8 [M, blocks * block_size]."""
    codes, (q,) = weights.codes, weights.data

    def job(start: int, stop: int) -> None:
        _int8(x, x_scales, q, codes.scales, codes.zero_points, start, stop, out)

    spread(job, codes.rows, 16, threads)


def float_product(x: Array, weights: "BlockMatrix", out: Array, threads: int) -> None:
    """Fill `out`, float32 [M, N], at level 0 from x, float32 [M, K]."""
    codes, (q,) = weights.codes, weights.data

    def job(start: int, stop: int) -> None:
        _float(x, q, codes.scales, codes.zero_points, codes.block_size, start, stop, out)

    spread(job, codes.rows, 16, threads)


@kernel(writes=("out",))
def _int8(x: Any, t: Any, q: Any, s: Any, z: Any, start: int, stop: int, out: Any) -> None:
    size = x.shape[1] // s.shape[1]
    for j in range(start, stop):
        for i in range(x.shape[0]):
            total = np.float32(0)
            for b in range(s.shape[1]):
                dot, sum_x = np.int32(0), np.int32(0)
                for k in range(b * size, (b + 1) * size):
                    dot = np.int32(dot + np.int32(x[i, k]) * np.int32(q[j, k]))
                    sum_x = np.int32(sum_x + np.int32(x[i, k]))
                whole = np.float32(dot) - z[j, b] * np.float32(sum_x)
                total += whole * (t[i, b] * s[j, b])
            out[i, j] = total


@kernel(writes=("out",))
def _float(x: Any, q: Any, s: Any, z: Any, size: int, start: int, stop: int, out: Any) -> None:
    row = np.empty(x.shape[1], np.float32)
    for j in range(start, stop):
        for k in range(x.shape[1]):
            row[k] = (np.float32(q[j, k]) - z[j, k // size]) * s[j, k // size]
        for i in range(x.shape[0]):
            part = np.zeros(16, np.float32)  # sums of every 16th, so that they run abreast
            for k in range(0, x.shape[1] - 15, 16):
                for lane in range(16):
                    part[lane] += x[i, k + lane] * row[k + lane]
            total = np.float32(0)
            for lane in range(16):
                total += part[lane]
            for k in range(x.shape[1] - x.shape[1] % 16, x.shape[1]):
                total += x[i, k] * row[k]
            out[i, j] = total
