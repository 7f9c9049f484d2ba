"""The form of a weight, with its numbers: what `plan` chose and `numbers` or `rounding` found."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import Affine, Half, Packed, affine
from onnx_compress.passes.quant.numbers import choose
from onnx_compress.passes.quant.plan import Plan, main_use
from onnx_compress.passes.quant.rounding import descended, round_to_nearest
from onnx_compress.passes.statistics import Moments

_KERNELS = ("nbits", "blocked")
_INTEGER = {"dynamic", "static"}  # readers that multiply bytes by bytes


@dataclass(frozen=True)
class Solved:
    """A form, and what its error adds to the mean of the outputs of the main use, [groups, rows]."""

    form: Affine | Half | Packed
    shift: Array | None = None


def solve(weight: Weight, plan: Plan, seen: Moments | None, saturates: bool) -> Solved | No:
    """Read the weight and choose its numbers; `saturates`: products of bytes do on the target."""
    if plan.bits == 16:
        half = Half.of(weight)
        return half if isinstance(half, No) else Solved(half)
    if plan.setting is None:
        # where products of bytes saturate, one bit less keeps the sum of two in range
        bits = 7 if saturates and _INTEGER & set(plan.readers.values()) else 8
        rounded = round_to_nearest(weight, bits)
        if isinstance(rounded, No):
            return rounded
        form: Affine | Packed = affine(weight, *rounded, dict(plan.readers))
        if seen is not None:
            form = descended(weight, form, bits, seen)
    else:
        found = _packed(weight, plan, seen)
        if isinstance(found, No):
            return found
        form = found
    return Solved(form, None if seen is None else _shift(weight, form.decode(), seen))


def _packed(weight: Weight, plan: Plan, seen: Moments | None) -> Packed | No:
    order, setting = plan.order, plan.setting
    if order is None or setting is None:
        raise ValueError("a plan without a setting")
    array = weight.array()
    if not np.isfinite(array).all():
        return No("holds NaN or infinity")
    groups = seen.groups if seen is not None else 1
    matrix = order.matrix(array).reshape(groups, -1, order.columns)
    kernels = set(plan.readers.values()) & set(_KERNELS)
    dtype = np_dtype(weight.element)
    numbers = choose(matrix, setting, seen, not kernels, plan.block)
    scale = numbers.scale.astype(dtype) if dtype == np.float64 else numbers.scale
    return Packed(
        numbers.codes,
        scale,
        numbers.zero,
        setting.levels,
        plan.block,
        order,
        weight.element,
        str(dtype),
        plan.readers,
    )


def _shift(weight: Weight, decoded: Array, seen: Moments) -> Array | None:
    """E[(V - W) x]."""
    use = main_use(weight)
    if use is None:
        return None
    change = use.matrix(decoded.astype(np.float64)) - use.matrix(weight.array())
    return np.asarray(np.einsum("grk,gk->gr", change, seen.mean))


def described(weight: Weight, plan: Plan, form: Affine | Half | Packed) -> str:
    """For the report: from what to what, and how it is read."""
    readers: Mapping = form.readers
    if isinstance(form, Packed):
        bits = f"{plan.bits:g} bits in blocks of {form.block}"
        bits = f"{len(form.scale)} x {bits}" if len(form.scale) > 1 else bits
        how = sorted({readers.get(use, "unpacked") for use in weight.uses}) or ["unpacked"]
        return f"{weight.dtype.lower()} to {bits}, {', '.join(how)}"
    how = sorted({readers.get(use, "codec") for use in weight.uses}) or ["codec"]
    return f"{weight.dtype.lower()} to {form.codes.dtype}, {', '.join(how)}"
