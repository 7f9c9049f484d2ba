"""What an output loses channel by channel: of boxes and scores in one tensor, scores count, too.

    lost  =  mean over channels of  min(|y_c - r_c|^2 / |r_c - mean|^2, 1)

Of the worst output and axis, among axes of few channels with many numbers each. The error that
decides in the end adds channels up, so that large ones hide what small ones lose.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import open_session
from onnx_compress.passes.verify import Reference

_MOST = 256  # channels
_LEAST = 64  # numbers of each
_LIVELY = 1e-9  # of a channel's square that its variance must be


def apart(reference: Reference, model: Model) -> float:
    """How far a model is from the original: error^2, or what channels lose, if that is more."""
    runs = list(open_session(model, 2, optimize=False).run_all(reference.feeds))
    error = reference.error(reference.judged(runs))
    return max(error**2, lost(reference.outputs(), runs))


def lost(references: Iterable[list[Any]], runs: Iterable[list[Any]]) -> float:
    """Of outputs, sample by sample; 0 where no output has such an axis."""
    sums: dict[tuple[int, int], list[Array]] = {}
    for expected, actual in zip(references, runs, strict=True):
        for at, (r, y) in enumerate(zip(expected, actual, strict=True)):
            if not isinstance(r, np.ndarray) or r.dtype.kind != "f" or r.shape != y.shape:
                continue
            for axis in range(1, r.ndim):
                if 1 < r.shape[axis] <= _MOST:
                    parts = _sums(r.astype(np.float64), y.astype(np.float64), axis)
                    known = sums.setdefault((at, axis), parts)
                    if known is not parts and known[0].shape == parts[0].shape:
                        sums[at, axis] = [a + b for a, b in zip(known, parts, strict=True)]
    return max((_share(parts) for parts in sums.values()), default=0.0)


def _sums(r: Array, y: Array, axis: int) -> list[Array]:
    """Of each channel: numbers, squares, errors squared, and how many."""
    others = tuple(other for other in range(r.ndim) if other != axis)
    count = np.full(r.shape[axis], r.size // max(r.shape[axis], 1))
    return [r.sum(others), (r * r).sum(others), ((y - r) ** 2).sum(others), count]


def _share(parts: list[Array]) -> float:
    total, square, noise, count = parts
    variance = square - total**2 / np.maximum(count, 1)
    lively = (variance > _LIVELY * square) & (count >= _LEAST)
    if not lively.any():
        return 0.0
    return float(np.minimum(noise[lively] / variance[lively], 1.0).mean())
