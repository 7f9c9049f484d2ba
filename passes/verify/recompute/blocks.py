"""Weights in blocks of few bits, recomputed.

MatMulNBits, float       x @ (q - z) s                            in float64
MatMulNBits, int8        sum over blocks  sx s sum (xq (q - z))   sx = max|x| / 127 a block
GatherBlockQuantized     (q - z) s of the rows picked
"""

from collections.abc import Iterator

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights.effective import picked_rows
from onnx_compress.ir.weights.packed import unpacked
from onnx_compress.passes.verify.recompute.way import Inputs, Way

_INT8 = 4  # accuracy_level from which the input may be rounded to bytes
_TOP = np.float32(127)


def matmul_nbits(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, packed codes, scales, zero points, order of columns, bias.

    From accuracy level 4 on the runtime rounds x to bytes where it has a kernel for that, and
    computes in float elsewhere; below it must not round.
    """
    x, packed, scale, zero, order, bias = (*inputs, *(None,) * 6)[:6]
    if order is not None or x.dtype != np.float32:
        return
    codes, scales, zeros = unpacked(node.attribute, packed, scale, zero)
    inner = int(node.attribute("K"))
    wide = codes.astype(np.float64) - zeros[..., None]
    shift = 0.0 if bias is None else bias.astype(np.float64)
    rows = x.reshape(-1, inner)
    shape = (*x.shape[:-1], len(codes))
    level = int(node.attribute("accuracy_level", 0))

    def in_float() -> Array:
        flat = (wide * scales[..., None]).reshape(len(codes), -1)[:, :inner]
        return np.asarray(rows.astype(np.float64) @ flat.T + shift).reshape(shape)

    def in_bytes() -> Array:
        return np.asarray(_rounded(rows, wide, scales) + shift).reshape(shape)

    def summed() -> Array:
        flat = np.abs(wide * scales[..., None]).reshape(len(codes), -1)[:, :inner]
        return np.asarray(np.abs(rows).astype(np.float64) @ flat.T).reshape(shape)

    if level == _INT8:
        yield Way((in_bytes(),), inner, summed=summed)
        note = "in float: no kernel for bytes in this shape"
        yield Way((in_float(),), inner, note=note, summed=summed)
    else:
        yield Way((in_float(),), inner, summed=summed)


def _rounded(x: Array, wide: Array, scales: Array) -> Array:
    """[M, K] x [N, blocks, block_size]: float64 sums of the integer sums of blocks."""
    blocks, size = wide.shape[1:]
    padded = np.pad(x, ((0, 0), (0, blocks * size - x.shape[1]))).reshape(len(x), blocks, size)
    top = np.abs(padded).max(2)
    scale = (top / _TOP).astype(np.float32)
    inverse = np.where(top > 0, _TOP / np.where(top > 0, top, 1), 0).astype(np.float32)
    codes = np.rint(padded * inverse[..., None]).astype(np.float64)
    out = np.zeros((len(x), len(wide)))
    for at in range(blocks):
        sums = codes[:, at] @ wide[:, at].T
        out += sums * (scale[:, at, None].astype(np.float64) * scales[:, at].astype(np.float64))
    return out


def gather_block_quantized(node: Node, inputs: Inputs) -> Iterator[Way]:
    """Codes, indices, scales, zero points."""
    codes, ids, scale, zero = (*inputs, None)[:4]
    table = picked_rows(node, codes, scale, zero)
    axis = node.attribute("gather_axis", 0)
    places = np.where(ids < 0, ids + table.shape[axis], ids)
    yield Way((np.take(table, places, axis).astype(scale.dtype),))
