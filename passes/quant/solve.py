"""The form of a weight, with its numbers: what `plan` chose and `numbers` or `rounding` found."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph.elements import Array, np_dtype
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms import Affine, Half, Packed, affine
from onnx_compress.ir.weights.forms.static import with_room
from onnx_compress.passes.quant.data import Seen
from onnx_compress.passes.quant.numbers import choose
from onnx_compress.passes.quant.paired import kept_in, partners
from onnx_compress.passes.quant.plan import KERNELS, Plan, main_use
from onnx_compress.passes.quant.pruned import mask_of, on_mask
from onnx_compress.passes.quant.residual import Factors
from onnx_compress.passes.quant.rounding import descended, round_to_nearest

_WHOLE = 1 << 26  # bytes of a weight without data that may be read at once
_INTEGER = {"dynamic", "static"}  # readers that multiply bytes by bytes


@dataclass(frozen=True)
class Solved:
    """A form, and what its error adds to the mean outputs of the main use, [groups, rows].

    `note`: what the data that it was fitted to lack. `factors`: of a product beside it.
    """

    form: Affine | Half | Packed
    shift: Array | None = None
    note: str = ""
    factors: Factors | None = None

    def decode(self, use: Use | None) -> Array:
        """What a use of the weight is multiplied with, all together, in the stored shape."""
        found = self.form.decode()
        if self.factors is None or use is None:
            return found
        whole = use.matrix(found) + self.factors.product
        return use.stored(whole, found.shape).astype(found.dtype)


def solve(weight: Weight, plan: Plan, seen: Seen | None, saturates: bool) -> Solved | No:
    """Read the weight and choose its numbers; `saturates`: products of bytes do on the target."""
    if plan.bits == 16:
        half = Half.of(weight)
        return half if isinstance(half, No) else Solved(half)
    if plan.setting is not None:
        return _packed(weight, plan, seen)
    use = main_use(weight)
    partner = None
    if saturates and use is not None and _INTEGER & set(plan.readers.values()):
        partner = partners(use)
    # pairs are found in whole weights; of large ones, one bit less keeps the sum of two in range
    large = partner is not None and seen is None and weight.nbytes > _WHOLE
    bits = 7 if large else 8
    rounded = round_to_nearest(weight, bits)
    if isinstance(rounded, No):
        return rounded
    form = affine(weight, *rounded, dict(plan.readers))
    if use is not None and partner is not None and not large:
        form = kept_in(weight, use, form, partner)
    if use is not None and plan.readers.get(use) == "static":
        form = with_room(weight.model, use, form)
    if seen is None or use is None:
        return Solved(form)
    matrix = use.matrix(weight.array())
    kept = mask_of(matrix)
    aim = _on_mask(seen.aim(matrix), seen, kept)
    form = descended(weight, use, form, aim, seen, partner, kept)
    return Solved(form, seen.shift(matrix, use.matrix(form.decode())))


def _packed(weight: Weight, plan: Plan, seen: Seen | None) -> Solved | No:
    order, setting = plan.order, plan.setting
    if order is None or setting is None:
        raise ValueError("a plan without a setting")
    array = weight.array()
    if not np.isfinite(array).all():
        return No("holds NaN or infinity")
    groups = seen.moments.groups if seen is not None else 1
    matrix = order.matrix(array).reshape(groups, -1, order.columns)
    kept = mask_of(matrix)
    aim = matrix
    if seen is not None:
        with ThreadPoolExecutor(1) as pool:  # GPTQ wants another factor of H than the aim does
            one = len(seen.moments.stored) == 1 and kept is None
            if one and setting.bits >= 2 and plan.block < order.columns:
                pool.submit(copy_context().run, getattr, seen, "inverse")
            aim = _on_mask(seen.aim(matrix), seen, kept)
    half = not set(plan.readers.values()) & set(KERNELS)
    dtype = np_dtype(weight.element)

    def coded(target: Array) -> tuple[Packed, Array]:
        """A form, and its numbers as a matrix."""
        numbers = choose(target, setting, seen, half, plan.block, kept)
        scale = numbers.scale.astype(dtype) if dtype == np.float64 else numbers.scale
        kind = weight.element, str(dtype)
        grid = setting.levels, plan.block, order
        form = Packed(numbers.codes, scale, numbers.zero, *grid, *kind, plan.readers)
        return form, order.matrix(form.decode()).reshape(matrix.shape)

    form, decoded = coded(aim)
    factors = None
    if setting.rank:
        h = None if seen is None or len(seen.moments.stored) > 1 else seen.damped[0]
        factors = Factors.of(aim[0] - decoded[0], h, setting.rank)
        form, decoded = coded(aim - factors.product)  # codes once more, then what these lose
        factors = Factors.of(aim[0] - decoded[0], h, setting.rank)
        decoded = decoded + factors.product
    shift = None if seen is None else seen.shift(matrix, decoded)
    return Solved(form, shift, factors=factors)


def _on_mask(aim: Array, seen: Seen, kept: Array | None) -> Array:
    if kept is None:
        return aim
    parts = [on_mask(aim[..., at], part.damped, kept[..., at]) for at, part in seen.parts]
    return np.concatenate(parts, axis=-1)


def described(weight: Weight, plan: Plan, form: Affine | Half | Packed) -> str:
    """For the report: from what to what, and how it is read."""
    readers = form.readers
    if isinstance(form, Packed):
        bits = f"{plan.bits:g} bits in blocks of {form.block}"
        bits = f"{len(form.scale)} x {bits}" if len(form.scale) > 1 else bits
        how = sorted({readers.get(use, "unpacked") for use in weight.uses}) or ["unpacked"]
        rank = plan.setting.rank if plan.setting is not None else 0
        more = f", corrected by rank {rank}" if rank else ""
        return f"{weight.dtype.lower()} to {bits}, {', '.join(how)}{more}"
    how = sorted({readers.get(use, "codec") for use in weight.uses}) or ["codec"]
    return f"{weight.dtype.lower()} to {form.codes.dtype}, {', '.join(how)}"
