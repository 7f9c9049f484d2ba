"""Weights in blocks of few bits.

MatMulNBits(x, packed, s, z)                     (unpacked - z) s
GatherBlockQuantized(q, ids, s, z)               (q - z) s
"""

from collections.abc import Iterator

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights.effective.base import Effective
from onnx_compress.ir.weights.effective.packed import spread, unpacked


def blocks(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """MatMulNBits: [N, blocks, bytes] with a scale and a zero point for each block."""
    value = node.input(1)
    if model.tensor(value) is None:
        return

    def decode(_: Array | None) -> Array | None:
        packed, scale, zero = (folded.array(node.input(at)) for at in (1, 2, 3))
        if packed is None or scale is None or (node.input(3) is not None and zero is None):
            return None
        codes, scale, zero = unpacked(node.attribute, packed, scale, zero)
        wide = (codes.astype(np.float32) - zero[..., None]) * scale[..., None]
        flat = wide.reshape(len(wide), -1)[:, : node.attribute("K")]
        return np.asarray(flat.T)

    def steps() -> Array | None:
        scale = folded.array(node.input(2))
        if scale is None:
            return None
        block, inner = node.attribute("block_size", 32), node.attribute("K")
        wide = scale.reshape(node.attribute("N"), -1).astype(np.float32)
        return np.asarray(np.repeat(wide, block, 1)[:, :inner].T)

    yield Effective(node, 1, node.output, decode, value, steps)


def picked_blocks(model: Model, node: Node, folded: Folded) -> Iterator[Effective]:
    """GatherBlockQuantized: (q - z) s, blocks along the quantized axis."""
    data, scales, zeros = node.input(0), node.input(2), node.input(3)
    if model.tensor(data) is None or data is None:
        return

    def decode(_: Array | None) -> Array | None:
        codes, scale = folded.array(data), folded.array(scales)
        zero = folded.array(zeros)
        if codes is None or scale is None or (zeros is not None and zero is None):
            return None
        return picked_rows(node, codes, scale, zero)

    def steps() -> Array | None:
        scale, table = folded.array(scales), decode(None)
        if scale is None or table is None:
            return None
        axis, block = node.attribute("quantize_axis", 1), node.attribute("block_size", 128)
        places = tuple(slice(0, size) for size in table.shape)
        return np.asarray(np.repeat(scale.astype(np.float32), block, axis)[places])

    yield Effective(node, 0, node.output, decode, data, steps)


def picked_rows(node: Node, codes: Array, scale: Array, zero: Array | None) -> Array:
    """The whole table of GatherBlockQuantized."""
    bits = node.attribute("bits", 4)
    axis = node.attribute("quantize_axis", 1) % codes.ndim
    middle = 0
    if codes.dtype == np.uint8:  # packed along the last axis, signed about the middle
        codes = spread(codes, bits)
        middle = 1 << (bits - 1)
        zero = None if zero is None else spread(zero, bits)[..., : scale.shape[-1]]
    elif codes.dtype.name == "uint4":
        middle = 8
    block = node.attribute("block_size", 128)
    wide = codes.astype(np.float32)
    places = tuple(slice(0, size) for size in wide.shape)
    shift = middle if zero is None else np.repeat(zero.astype(np.float32), block, axis)[places]
    return np.asarray((wide - shift) * np.repeat(scale.astype(np.float32), block, axis)[places])
