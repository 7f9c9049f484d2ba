"""Codes of MatMulNBits, spread out of their bytes.

packed [N, blocks, block_size * bits / 8]  ->  codes [N, blocks, block_size], the low bits first
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array


def unpacked(
    attribute: Callable[..., Any], packed: Array, scale: Array, zero: Array | None
) -> tuple[Array, Array, Array]:
    """uint8 codes [N, blocks, block_size], float32 scales and zero points [N, blocks].

    `attribute(name, default)`: those of the node. Zero points are packed like codes, or of the type
    of the scales; the middle of the codes where there are none.
    Source: operator documentation of com.microsoft.MatMulNBits.
    """
    bits, block = attribute("bits", 4), attribute("block_size", 32)
    rows = int(attribute("N"))
    blocks = -(-int(attribute("K")) // block)
    codes = spread(packed.reshape(rows, blocks, -1), bits)
    scales = scale.reshape(rows, blocks).astype(np.float32)
    if zero is None:
        return codes, scales, np.full((rows, blocks), float(1 << (bits - 1)), np.float32)
    if zero.dtype == np.uint8:
        zeros = spread(zero.reshape(rows, -1), bits)[:, :blocks]
    else:
        zeros = zero.reshape(rows, blocks)
    return codes, scales, zeros.astype(np.float32)


def spread(packed: Array, bits: int) -> Array:
    """Codes along the last axis of bytes, low bits first; uint8."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    wide = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(wide.reshape(*packed.shape[:-1], -1))
