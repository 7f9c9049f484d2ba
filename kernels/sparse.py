"""Sparse weights times dense activations:  y = x w^T,  w [N, K], N output features.

    CSR   row n: values[indptr[n] : indptr[n + 1]] at columns indices[...]
    BSR   the same of blocks [R, C]: row of blocks n holds rows n R ... n R + R - 1
    N:M   in each M columns that lie together, N values at `positions` 0 ... M - 1

All sums in float32; in which order is left open.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine import paths

Array = npt.NDArray[Any]

_MODULES = {"portable": "loops", "avx2": "simd", "avx512vnni": "simd"}


@dataclass(frozen=True)
class SparseMatrix:
    """w [rows, columns] laid out for one path. `block`: (R, C) of its blocks; (1, 1) for CSR."""

    path: str
    rows: int
    columns: int
    block: tuple[int, int]
    data: tuple[Array, ...]


def csr(
    indptr: Array, indices: Array, values: Array, columns: int, *, path: str | None = None
) -> SparseMatrix:
    """Lay out w in CSR: integers [N + 1] and [nnz], floats [nnz].

    Raises ValueError where they do not fit, an index is outside, or rows are not in order.
    """
    blocks = np.asarray(values, np.float32).reshape(-1, 1, 1)
    return bsr(indptr, indices, blocks, columns, path=path)


def bsr(
    indptr: Array, indices: Array, blocks: Array, columns: int, *, path: str | None = None
) -> SparseMatrix:
    """Lay out w in BSR: integers [N / R + 1] and [count], floats [count, R, C]; see `csr`.

    `indices` are columns of blocks.
    """
    starts = np.ascontiguousarray(indptr, np.int64)
    count, height, width = blocks.shape
    if starts.ndim != 1 or not len(starts) or starts[0] != 0 or starts[-1] != count:
        raise ValueError(f"indptr of shape {starts.shape} does not run from 0 to {count}")
    if (np.diff(starts) < 0).any() or len(indices) != count or columns % width:
        raise ValueError("indptr decreases, or indices or columns do not fit the blocks")
    if count and not 0 <= int(np.min(indices)) <= int(np.max(indices)) < columns // width:
        raise ValueError(f"an index is outside the {columns // width} columns of blocks")
    chosen = paths.select(path)
    data = loops(chosen).lay_out(
        starts, np.asarray(indices), np.ascontiguousarray(blocks, np.float32), columns, chosen
    )
    return SparseMatrix(chosen, (len(starts) - 1) * height, columns, (height, width), data)


def n_of_m(
    values: Array, positions: Array, group: int, columns: int, *, path: str | None = None
) -> SparseMatrix:
    """Lay out w in N:M: `values` floats [N, K * n / m] and `positions`, integers within a group.

    `group` is m, `columns` K; n is what the shapes say. Raises ValueError where they do not fit.
    """
    rows, kept = values.shape
    groups = columns // group
    if columns % group or not groups or kept % groups or positions.shape != values.shape:
        raise ValueError(f"{values.shape} values, {positions.shape} positions, {columns} columns")
    if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < group:
        raise ValueError(f"a position is outside its group of {group}")
    first = np.repeat(np.arange(groups) * group, kept // groups)
    indices = (positions.astype(np.int64) + first).reshape(-1)
    return csr(np.arange(rows + 1) * kept, indices, values.reshape(-1), columns, path=path)


def matmul_sparse(x: Array, w: SparseMatrix, *, threads: int = 1) -> Array:
    """float32 [..., N] of x, float32 [..., K]. Raises ValueError where shapes do not fit."""
    if x.shape[-1] != w.columns:
        raise ValueError(f"x of shape {x.shape} for weights of {w.columns} columns")
    rows = np.ascontiguousarray(x, np.float32).reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    out = np.empty((len(rows), w.rows), np.float32)
    if out.size:
        loops(w.path).product(rows, w, out, threads)
    return out.reshape(*x.shape[:-1], w.rows)


def loops(path: str) -> ModuleType:
    """The module of a path: `lay_out`, `product`."""
    return import_module(f"onnx_compress.kernels.{_MODULES[path]}.sparse")
