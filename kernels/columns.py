"""Columns rounded one after the other to a grid of numbers for each row: descent, and GPTQ.

    descend   v_k <- nearest(v_k + g_k / h_kk)    g   -= (change of v_k) h_k:
    gptq      v_k <- nearest(w_k)                 w_j -= (w_k - v_k) / u_kk * u_kj    j > k

A number is scale (q - zero), q = 0 ... top. All is turned, [columns, rows]: a column of all rows
lies together. The same bits on any processor.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_compress.kernels.machine.compiled import kernel

Array = npt.NDArray[Any]
_NONE = np.ones((0, 0, 0), np.bool_)
_ALONE = np.zeros(0, np.int64)
MOST = 128  # of two codes of one sign, whose products are added in 16 bits


def descend(
    value: Array,
    start: int,
    gradient: Array,
    h: Array,
    scale: Array,
    zero: Array,
    group: int,
    top: int,
    kept: Array | None = None,
    partner: Array | None = None,
) -> Array:
    """Change n columns of `value` [B, K, R] from `start` on where the loss falls; by how much.

    `gradient`: [B, n, R], not kept up to date; `h`: [B, n, n], symmetric, with a positive
    diagonal; `scale`, `zero`: [B, G, R], of `group` columns each; `kept`: bool [B, K, R], where it
    is False a number becomes zero; all others float32. `partner`: [K], the column that is added to
    each in 16 bits, -1 for none, so that codes of the two must not pass MOST together; they are of
    one group. A column is changed only by what gains more than rounding. Gives changes [B, n, R].
    """
    own = gradient.copy()
    changes = np.zeros_like(own)
    h, scale, zero = (np.ascontiguousarray(each, np.float32) for each in (h, scale, zero))
    mask = _NONE if kept is None else np.ascontiguousarray(kept)
    beside = _ALONE if partner is None else np.ascontiguousarray(partner, np.int64)
    _descend(value, start, own, h, scale, zero, group, np.float32(top), mask, beside, changes)
    return changes


def gptq(
    w: Array, start: int, upper: Array, scale: Array, zero: Array, group: int, top: int
) -> Array:
    """Round n columns of `w` [B, K, R] from `start` on in place; what they lose over u_kk.

    `upper`: [B, n, n], of a triangle; the rest as for `descend`. Gives [B, n, R].
    """
    errors = np.empty((len(w), upper.shape[1], w.shape[2]), np.float32)
    upper, scale, zero = (np.ascontiguousarray(each, np.float32) for each in (upper, scale, zero))
    _gptq(w, start, upper, scale, zero, group, np.float32(top), errors)
    return errors


@kernel(writes=("value", "own", "changes"))
def _descend(
    value: Any,
    start: int,
    own: Any,
    h: Any,
    scale: Any,
    zero: Any,
    group: int,
    top: Any,
    kept: Any,
    partner: Any,
    changes: Any,
) -> None:
    batch, count, rows = own.shape
    for b in range(batch):
        for at in range(count):
            curve, column = h[b, at, at], start + at
            sizes, shifts = scale[b, column // group], zero[b, column // group]
            numbers, slopes, steps = value[b, column], own[b, at], changes[b, at]
            for r in range(rows):
                steps[r] = np.rint((numbers[r] + slopes[r] / curve) / sizes[r] + shifts[r])
            if len(partner) > 0 and partner[column] >= 0:
                others = value[b, partner[column]]
                for r in range(rows):
                    near = np.rint(others[r] / sizes[r])
                    low = shifts[r] - np.float32(MOST) - min(near, np.float32(0))
                    high = shifts[r] + np.float32(MOST) - max(near, np.float32(0))
                    steps[r] = min(max(steps[r], low), high)
            for r in range(rows):
                code = np.float32(0) if steps[r] < 0 else steps[r]
                code = top if code > top else code
                steps[r] = sizes[r] * (code - shifts[r])
            if len(kept) > 0:
                allowed = kept[b, column]
                for r in range(rows):
                    steps[r] = steps[r] if allowed[r] else np.float32(0)
            for r in range(rows):
                change = steps[r] - numbers[r]
                # what is equal stays
                better = change * (np.float32(2) * slopes[r] - change * curve) > 0
                numbers[r] = steps[r] if better else numbers[r]
                steps[r] = change if better else np.float32(0)
            for other in range(at + 1, count):
                pull, rest = h[b, at, other], own[b, other]
                for r in range(rows):
                    rest[r] -= pull * steps[r]


@kernel(writes=("w", "errors"))
def _gptq(
    w: Any, start: int, upper: Any, scale: Any, zero: Any, group: int, top: Any, errors: Any
) -> None:
    batch, count, rows = errors.shape
    for b in range(batch):
        for at in range(count):
            size, column = upper[b, at, at], start + at
            sizes, shifts = scale[b, column // group], zero[b, column // group]
            numbers, lost = w[b, column], errors[b, at]
            for r in range(rows):
                code = np.rint(numbers[r] / sizes[r] + shifts[r])
                code = np.float32(0) if code < 0 else code
                code = top if code > top else code
                new = sizes[r] * (code - shifts[r])
                lost[r] = (numbers[r] - new) / size
                numbers[r] = new
            for other in range(at + 1, count):
                share, rest = upper[b, at, other], w[b, start + other]
                for r in range(rows):
                    rest[r] -= share * lost[r]
