"""Codes out of bytes, by arithmetic that every runtime has.

    word = sum_i byte_i 256^i       code_d = word / L^d mod L       L levels

    bytes [..., words, width] --> codes [..., words, digits]     axis -1: as kernels want them
    bytes [..., width, words] --> codes [..., digits, words]     axis -2: in long runs

`unpacked` takes the fewest nodes, for what is folded at load. `unpacked_fast` is for what is
unpacked at every run: runtimes have vectors for floats, but hardly for integer quotients. Floats
hold each word, and a quotient that is no whole number is at least 1 / 81 away from one.
"""

from typing import Any

import numpy as np

from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array, element_of
from onnx_compress.ir.graph.view import Value
from onnx_compress.kernels.radix import Packing


def unpacked(b: Builder, packing: Packing, packed: Value, axis: int) -> Value:
    """Codes as integers."""
    if packing.digits == 1:
        return packed
    kind = np.dtype(np.int64 if packing.width > 3 else np.int32)
    out = _shifted(b, packing, packed, axis, kind)
    return b("Mod", out, b.constant(np.array(packing.levels, kind), "m"))


def unpacked_fast(b: Builder, packing: Packing, packed: Value, axis: int, dtype: str) -> Value:
    """Codes as floats:  a - floor(a / L) L  with  a = floor(word / L^d)."""
    wanted = np.dtype(dtype)
    if packing.digits == 1:
        return b("Cast", packed, to=element_of(wanted))
    kind = np.dtype(np.float64) if packing.width > 3 else wanted
    out = b("Floor", _shifted(b, packing, packed, axis, kind))
    levels = b.constant(np.array(packing.levels, kind), "m")
    out = b("Sub", out, b("Mul", b("Floor", b("Div", out, levels)), levels))
    return out if kind == wanted else b("Cast", out, to=element_of(wanted))


def summed(b: Builder, value: Value, axis: int, keep: bool) -> Value:
    """ReduceSum, as the operator set of the model spells it."""
    if b.model.opset() < 13:
        return b("ReduceSum", value, axes=[axis], keepdims=int(keep))
    axes = b.constant(np.array([axis], np.int64), "a")
    return b("ReduceSum", value, axes, keepdims=int(keep))


def _shifted(b: Builder, packing: Packing, packed: Value, axis: int, kind: np.dtype[Any]) -> Value:
    """word / L^d, rounded down for integers."""

    def along(numbers: list[int]) -> Array:
        column = np.array(numbers, kind)
        return column if axis == -1 else column[:, None]

    out = b("Cast", packed, to=element_of(kind))
    if packing.width > 1:
        values = along([256**at for at in range(packing.width)])
        out = summed(b, b("Mul", out, b.constant(values, "w")), axis, keep=True)
    return b("Div", out, b.constant(along(packing.places), "d"))
