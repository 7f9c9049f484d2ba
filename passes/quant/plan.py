"""What each weight gets: how many bits, in which form, and how its readers read it.

    bits       16 Half | 8 Affine | 6 ... 1 Packed
    fallback   where nodes around a small weight outweigh its codes, the next larger form

Nothing is read here but shapes and types.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_compress.ir.graph.elements import np_dtype
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms import Half, Packed, minimum_opset
from onnx_compress.ir.weights.inputs import source
from onnx_compress.ir.weights.order import Order, order_of
from onnx_compress.kernels.radix import PACKINGS
from onnx_compress.passes.quant.readers import Choice
from onnx_compress.passes.quant.setting import Setting

_NODE_BYTES = 126  # that a node or a small tensor takes in a file, with names of a usual length
_NODES = {  # that a reader adds, with their small tensors
    "codec": 2,
    "gathered": 4,
    "dequantize": 2,
    "static": 6,
    "dynamic": 6,
    "unpacked": 9,
    "picked": 17,
    "nbits": 3,
    "blocked": 3,
}
_SMALLEST_BLOCK = 16  # of kernels
KERNELS = ("nbits", "blocked")


@dataclass(frozen=True)
class Plan:
    """`setting`: of packed weights, whose rows are those of `order`, in blocks of `block`."""

    bits: float
    readers: Mapping[Use, str]
    setting: Setting | None = None
    order: Order | None = None
    block: int = 0

    @property
    def minimum_opset(self) -> int:
        """Version of the default operator set that its readers need."""
        return minimum_opset(self.readers.values() or ["codec"])


def main_use(weight: Weight) -> Use | None:
    """The use whose rows share scales, and whose inputs decide: one that multiplies, if any."""
    known = [use for use in weight.uses if source(use) is not None]
    return next(iter([*known, *weight.uses]), None)


def plan(weight: Weight, setting: Setting, choice: Choice | None) -> Plan | No:
    """The form of fewest bytes of those with at least the bits asked for.

    Of those that the operator set allows, where that is known.
    """
    found = [_packed(weight, setting, choice)] if setting.bits < 8 and choice else []
    if setting.bits <= 8 and choice:
        found.append(Plan(8, choice.readers(weight)))
    if weight.dtype != "FLOAT16":
        found.append(Plan(16, Half.readers_of(weight)))
    if choice is not None:
        found = [each for each in found if each.minimum_opset <= choice.newest] or found
    sizes = [_bytes(weight, each) + overhead(each.readers) for each in found]
    best = min(range(len(found)), key=lambda at: sizes[at], default=None)
    if best is None:
        return No("already 16 bits")
    if sizes[best] >= weight.nbytes:
        around = overhead(found[best].readers)
        return No(f"too small: {weight.nbytes} bytes, the nodes around it take {around}")
    return found[best]


def _packed(weight: Weight, setting: Setting, choice: Choice) -> Plan:
    order = order_of(weight.shape, main_use(weight))
    exact = setting.block
    while exact >= 2 * max(order.columns, _SMALLEST_BLOCK):
        exact //= 2
    if exact and not exact & (exact - 1):
        form = _shaped(weight, setting, order, exact)
        readers = choice.packed_readers(weight, form)
        if set(readers.values()) & set(KERNELS):
            return Plan(setting.bits, readers, setting, order, exact)
    block = setting.block_of(order.columns)
    form = _shaped(weight, setting, order, block)
    return Plan(setting.bits, choice.packed_readers(weight, form), setting, order, block)


def _shaped(weight: Weight, setting: Setting, order: Order, block: int) -> Packed:
    """A form to ask about: readers look at shapes and types alone, and views cost nothing."""
    blocks = -(-order.columns // block)
    zeros = np.broadcast_to(np.uint8(0), (order.rows, blocks))
    middle = 0.5 if setting.bits == 1 else float(setting.levels // 2)
    return Packed(
        codes=np.broadcast_to(np.uint8(0), (setting.bases, order.rows, order.columns)),
        scale=np.broadcast_to(np.float32(1), (setting.bases, order.rows, blocks)),
        zero=zeros if setting.zeros else np.asarray(middle),
        levels=setting.levels,
        block=block,
        order=order,
        element=weight.element,
        dtype=str(np_dtype(weight.element)),
    )


def _bytes(weight: Weight, each: Plan) -> int:
    """About what codes, scales and zeros take."""
    if each.setting is None or each.order is None:
        scales = 0 if each.bits == 16 else prod(weight.shape[a] for a in weight.channel_axes)
        return weight.size * int(each.bits) // 8 + 4 * scales
    packing = PACKINGS[each.setting.levels]
    blocks = -(-each.order.columns // each.block)
    codes = -(-blocks * each.block // packing.digits) * packing.width
    own = 4 if set(each.readers.values()) & set(KERNELS) else 2
    row = each.setting.bases * (codes + blocks * own) + blocks * each.setting.zeros
    return each.order.rows * row


def overhead(readers: Mapping[Use, str]) -> int:
    """About what the added nodes take in the file; what is decoded at load is so once for all.

    Whatever the weight is called: names must not decide what becomes of it.
    """
    used = list(readers.values()) or ["codec"]
    once = {reader for reader in used if reader in ("codec", "unpacked")}
    nodes = sum(_NODES[reader] for reader in used if reader not in once)
    nodes += sum(_NODES[reader] for reader in once)
    return nodes * _NODE_BYTES
