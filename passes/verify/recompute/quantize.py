"""Floats to bytes and back, recomputed.

QuantizeLinear           clip(rint(x / s) + z)          a division, half to even
DynamicQuantizeLinear    s = f32((max - min) / 255), z = rint(-min / s), both with 0 in range
DequantizeLinear         f32(q - z) s
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.passes.verify.recompute.way import Inputs, Way

_LIMITS = {  # smallest and largest code
    "int2": (-2, 1),
    "uint2": (0, 3),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}


def dynamic(x: Array) -> tuple[Array, Array, Array]:
    """Bytes, scale and zero point of floats, as DynamicQuantizeLinear gives them."""
    zero = np.float32(0)
    low = np.minimum(x.min(initial=zero), zero)
    high = np.maximum(x.max(initial=zero), zero)
    scale = np.float32(1) if high == low else np.float32((high - low) / np.float32(255))
    start = np.clip(np.rint(zero - low / scale), 0, 255).astype(np.uint8)
    codes = np.clip(np.rint(x / scale) + np.float32(start), 0, 255).astype(np.uint8)
    return codes, np.asarray(scale), np.asarray(start)


def requantized(total: Array, factor: Array, zero: Array) -> Array:
    """clip(rint(f32(sum) factor) + z), in the type of the zero point."""
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(total.astype(np.float32) * factor) + zero.astype(np.float32)
    return np.asarray(np.clip(rounded, limits.min, limits.max).astype(zero.dtype))


def along(part: Any, shape: tuple[int, ...], axis: int, block: int) -> Any:
    """Scales or zero points so that they broadcast: one, along an axis, or for blocks of it."""
    if part is None:
        return None
    if part.size == 1 and part.ndim < 2:
        return part.reshape(())
    if block:
        wide = np.repeat(part, block, axis)
        return wide[tuple(slice(0, size) for size in shape)]
    return part.reshape([size if at == axis % len(shape) else 1 for at, size in enumerate(shape)])


def quantize_linear(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, scale, zero point (uint8 without)."""
    x, scale, zero = (*inputs, None)[:3]
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    if kind.name not in _LIMITS:
        return
    low, high = _LIMITS[kind.name]
    ratio = np.rint(x.astype(np.float32) / along(scale, x.shape, axis, block).astype(np.float32))
    if zero is not None:
        ratio = ratio + along(zero, x.shape, axis, block).astype(np.float32)
    yield Way((np.clip(ratio, low, high).astype(kind),))


def dynamic_quantize_linear(node: Node, inputs: Inputs) -> Iterator[Way]:
    """All three outputs."""
    yield Way(dynamic(inputs[0]))


def dequantize_linear(node: Node, inputs: Inputs) -> Iterator[Way]:
    """q, scale, zero point; the type of the scale."""
    codes, scale, zero = (*inputs, None)[:3]
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    if codes.dtype.name not in {*_LIMITS, "int32"}:
        return
    wide = codes.astype(np.int32)
    if zero is not None:
        wide = wide - along(zero, codes.shape, axis, block).astype(np.int32)
    spread = along(scale, codes.shape, axis, block).astype(np.float32)
    yield Way(((wide.astype(np.float32) * spread).astype(scale.dtype),))
