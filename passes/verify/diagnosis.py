"""What may have happened to numbers that are not as they should be, in words.

A wrong axis, layout, zero point or scale leaves a mark: all numbers off by as many steps, channels
off by a factor each, the same numbers in another order.
"""

import warnings

import numpy as np

from onnx_compress.ir.graph.elements import Array

_FEW = 3  # channels or numbers that are named one by one
_SAME = 1e-4  # relative difference of what counts as one factor


def diagnose(expected: Array, got: Array, step: Array | None = None) -> str:
    """The simplest explanation of the difference; `step`: what one code is worth, if that is known.

    Without any: how many numbers differ, and by how much.
    """
    if expected.shape != got.shape:
        if expected.ndim == 2 and got.shape == expected.shape[::-1]:
            return "transposed"
        return f"its shape is {list(got.shape)}, not {list(expected.shape)}"
    one, other = expected.astype(np.float64), got.astype(np.float64)
    for explain in (_transposed, _shifted, _scaled, _reordered):
        text = explain(one, other, step)
        if text:
            return text
    return _counted(one, other)


def _transposed(one: Array, other: Array, _: Array | None) -> str:
    if one.ndim == 2 and one.shape[0] == one.shape[1] and np.allclose(one.T, other, 1e-6, 0):
        return "transposed"
    if one.ndim == 2 and np.allclose(one.T.reshape(one.shape), other, 1e-6, 0):
        return "laid out the other way round"
    return ""


def _shifted(one: Array, other: Array, step: Array | None) -> str:
    """All numbers off by as many steps."""
    if step is None or not np.all(step > 0):
        return ""
    off = (other - one) / step
    first = float(np.rint(off.reshape(-1)[0]))
    if first and np.allclose(off, first, 0, 0.05):
        return f"every number is off by {first:+.0f} steps, as with a wrong zero point"
    return ""


def _scaled(one: Array, other: Array, _: Array | None) -> str:
    """Channels along one axis off by a factor each."""
    with np.errstate(all="ignore"):
        ratio = np.where(one != 0, other / one, np.nan)
    if not np.array_equal(one == 0, other == 0) or not (one != 0).any():
        return ""
    for axis in range(one.ndim):
        others = tuple(at for at in range(one.ndim) if at != axis)
        with warnings.catch_warnings():  # channels of zeros have no ratio
            warnings.simplefilter("ignore", RuntimeWarning)
            low, high = np.nanmin(ratio, others), np.nanmax(ratio, others)
        if not np.all((high - low <= _SAME * np.abs(high)) | np.isnan(high)):
            continue
        wrong = np.flatnonzero(np.abs(high - 1) > _SAME)
        if not len(wrong):
            return ""
        if len(wrong) == len(high) and np.ptp(high) <= _SAME * abs(float(high[0])):
            return f"every number is {float(high[0]):.4g} times what it should be"
        named = ", ".join(map(str, wrong[:_FEW])) + (", ..." if len(wrong) > _FEW else "")
        return f"{len(wrong)} of {len(high)} scales along axis {axis} are wrong ({named})"
    return ""


def _reordered(one: Array, other: Array, _: Array | None) -> str:
    if np.array_equal(np.sort(one, None), np.sort(other, None)):
        wrong = np.flatnonzero(one != other)
        return f"the same numbers in another order, {len(wrong)} of {one.size} elsewhere"
    return ""


def _counted(one: Array, other: Array) -> str:
    wrong = np.argwhere(~((one == other) | (np.isnan(one) & np.isnan(other))))
    named = ", ".join(str(list(map(int, place))) for place in wrong[:_FEW])
    more = ", ..." if len(wrong) > _FEW else ""
    size = float(np.sqrt(np.nansum((other - one) ** 2) / max(float(np.nansum(one**2)), 1e-300)))
    return f"{len(wrong)} of {one.size} numbers differ ({named}{more}), relative error {size:.2g}"
