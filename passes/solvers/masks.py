"""Masks: which weights stay. True is kept.

magnitude   |w|                              Han et al., 1506.02626
wanda       |w| sqrt(H_kk)                   Sun et al., 2306.11695
obs         w^2 / [H^-1]_kk                  LeCun et al. 1989, Hassibi et al. 1993

Each gives scores of the shape of the weight, [R, K] or [G, R, K]; `sparse`, `n_of_m` and `blocks`
make masks of scores (`blocks` of one matrix).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.passes.solvers.parallel import one_thread

Array = npt.NDArray[Any]


def magnitude(weight: Array) -> Array:
    """Size alone."""
    return np.abs(np.asarray(weight, np.float64))


def wanda(weight: Array, moment: Array) -> Array:
    """Size times that of the input. `weight`: [..., R, K]; `moment`: [..., K, K]."""
    diagonal = np.diagonal(np.asarray(moment, np.float64), axis1=-2, axis2=-1)
    return magnitude(weight) * np.sqrt(np.maximum(diagonal, 0.0))[..., None, :]


def obs(weight: Array, moment: Array) -> Array:
    """What the loss grows by when one weight goes and the others make up for it. Shapes as above.

    `moment`: damped.
    """
    with one_thread():
        inverse = np.linalg.inv(np.asarray(moment, np.float64))
    diagonal = np.diagonal(inverse, axis1=-2, axis2=-1)[..., None, :]
    return np.asarray(magnitude(weight) ** 2 / np.maximum(diagonal, 1e-300))


def sparse(scores: Array, sparsity: float) -> Array:
    """In each row all but the share `sparsity` of smallest scores. Of equals the first stay."""
    columns = scores.shape[-1]
    kept = columns - int(np.floor(sparsity * columns + 1e-9))
    return _largest(scores, kept)


def n_of_m(scores: Array, n: int, m: int) -> Array:
    """In each run of `m` columns the `n` of largest scores. A shorter last run keeps its share."""
    columns = scores.shape[-1]
    whole = columns // m * m
    parts = scores[..., :whole].reshape(-1, m)
    found = [_largest(parts, n).reshape(*scores.shape[:-1], whole)]
    rest = columns - whole
    if rest:
        found.append(_largest(scores[..., whole:], -(-n * rest // m)))
    return np.concatenate(found, axis=-1)


def blocks(scores: Array, sparsity: float, height: int, width: int) -> Array:
    """Whole blocks of `height` rows and `width` columns, all over the matrix, by their sum."""
    rows, columns = scores.shape
    tall, wide = -(-rows // height), -(-columns // width)
    padded = np.pad(scores, ((0, tall * height - rows), (0, wide * width - columns)))
    sums = padded.reshape(tall, height, wide, width).sum((1, 3))
    kept = sums.size - int(np.floor(sparsity * sums.size + 1e-9))
    mask = _largest(sums.reshape(1, -1), kept).reshape(sums.shape)
    return np.repeat(np.repeat(mask, height, 0), width, 1)[:rows, :columns]


def _largest(scores: Array, kept: int) -> Array:
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :kept]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask
