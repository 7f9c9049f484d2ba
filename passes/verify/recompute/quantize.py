"""Floats to codes and back, recomputed.

QuantizeLinear           clip(rint(x / s) + z)          a division, half to even
DynamicQuantizeLinear    s = f32((max - min) / 255), z = rint(-min / s), both with 0 in range
DequantizeLinear         f32(q - z) s
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.kernels.linear import dequantize_linear, dynamic_quantize, quantize_linear
from onnx_compress.passes.verify.recompute.way import Inputs, Way

# codes of less than a byte: how many bits, and the type that holds them here
_SIGNED, _UNSIGNED = np.dtype(np.int8), np.dtype(np.uint8)
_NARROW = {
    **{f"int{bits}": (bits, _SIGNED) for bits in (2, 4)},
    **{f"uint{bits}": (bits, _UNSIGNED) for bits in (2, 4)},
}
_WIDE = ("int8", "uint8", "int16", "uint16", "int32")


def quantize_linear_node(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, scale, zero point (uint8 without)."""
    x, scale, zero = (*inputs, None)[:3]
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    bits, held = _NARROW.get(kind.name, (0, kind))
    if x.dtype != np.float32 or (not bits and kind.name not in _WIDE):
        return
    codes = quantize_linear(
        x,
        scale,
        None if zero is None else _held(zero),
        axis=node.attribute("axis", 1),
        block_size=node.attribute("block_size", 0),
        dtype=held,
        bits=bits,
    )
    yield Way((codes.astype(kind).reshape(x.shape),))


def dynamic_quantize_linear(node: Node, inputs: Inputs) -> Iterator[Way]:
    """All three outputs."""
    yield Way(tuple(np.asarray(part) for part in dynamic_quantize(inputs[0])))


def dequantize_linear_node(node: Node, inputs: Inputs) -> Iterator[Way]:
    """q, scale, zero point; the type of the scale."""
    codes, scale, zero = (*inputs, None)[:3]
    if codes.dtype.name not in {*_NARROW, *_WIDE}:
        return
    out = dequantize_linear(
        _held(codes),
        scale,
        None if zero is None else _held(zero),
        axis=node.attribute("axis", 1),
        block_size=node.attribute("block_size", 0),
    )
    yield Way((out.astype(scale.dtype).reshape(codes.shape),))


def _held(codes: Any) -> Array:
    """Narrow codes in bytes."""
    narrow = _NARROW.get(codes.dtype.name)
    return np.asarray(codes if narrow is None else codes.astype(narrow[1]))
