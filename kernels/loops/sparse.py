"""Sparse weights, row by row in plain loops.

Indices are unsigned: signed ones are tested for counting from the end, at each access.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel
from onnx_compress.kernels.machine.threads import spread

if TYPE_CHECKING:
    from onnx_compress.kernels.sparse import SparseMatrix

Array = npt.NDArray[Any]

_LANES = 16  # rows of x that go through a row of weights together


def lay_out(
    indptr: Array, indices: Array, blocks: Array, columns: int, path: str
) -> tuple[Array, ...]:
    """Starts uint64 [rows of blocks + 1], indices uint32, blocks float32 [count, R, C]."""
    return indptr.astype(np.uint64), indices.astype(np.uint32), blocks


def product(x: Array, w: "SparseMatrix", out: Array, threads: int) -> None:
    """Fill `out`, float32 [M, N], from x, float32 [M, K]."""
    starts, indices, blocks = w.data
    count = len(starts) - 1
    if len(x) == 1:
        spread(
            lambda start, stop: _vector(x[0], starts, indices, blocks, start, stop, out[0]),
            count,
            16,
            threads,
        )
        return
    wide = -(-len(x) // _LANES) * _LANES
    turned = np.zeros((w.columns, wide), np.float32)
    turned[:, : len(x)] = x.T
    across = np.empty((w.rows, wide), np.float32)
    spread(
        lambda start, stop: _matrix(turned, starts, indices, blocks, start, stop, across),
        count,
        16,
        threads,
    )
    out[...] = across[:, : len(x)].T


@kernel(writes=("out",))
def _vector(
    x: Any, starts: Any, indices: Any, blocks: Any, start: int, stop: int, out: Any
) -> None:
    height, width = np.uint64(blocks.shape[1]), np.uint64(blocks.shape[2])
    for n in range(np.uint64(start), np.uint64(stop)):
        for r in range(height):
            total = np.float32(0)
            for p in range(starts[n], starts[n + np.uint64(1)]):
                first = np.uint64(indices[p]) * width
                for c in range(width):
                    total += blocks[p, r, c] * x[first + c]
            out[n * height + r] = total


@kernel(writes=("out",))
def _matrix(
    x: Any, starts: Any, indices: Any, blocks: Any, start: int, stop: int, out: Any
) -> None:
    height, width = np.uint64(blocks.shape[1]), np.uint64(blocks.shape[2])
    sums = np.empty(16, np.float32)
    for n in range(np.uint64(start), np.uint64(stop)):
        for r in range(height):
            for first in range(0, x.shape[1], 16):
                sums[:] = 0
                for p in range(starts[n], starts[n + np.uint64(1)]):
                    for c in range(width):
                        value = blocks[p, r, c]
                        k = np.uint64(indices[p]) * width + c
                        for lane in range(16):
                            sums[lane] += value * x[k, first + lane]
                for lane in range(16):
                    out[n * height + r, first + lane] = sums[lane]
