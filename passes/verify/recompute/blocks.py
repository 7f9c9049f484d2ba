"""Weights in blocks of few bits, recomputed.

MatMulNBits, float       x @ (q - z) s
MatMulNBits, int8        sum over blocks  sx s sum (xq (q - z))   sx = max|x| / 127 a block
GatherBlockQuantized     (q - z) s of the rows picked
"""

from collections.abc import Callable, Iterator

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights.effective.blocks import picked_rows
from onnx_compress.ir.weights.effective.packed import unpacked
from onnx_compress.kernels.nbits import block_codes, matmul_nbits
from onnx_compress.passes.verify.recompute.way import Inputs, Way

_INT8 = 4  # accuracy_level from which the input may be rounded to bytes


def matmul_nbits_node(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, packed codes, scales, zero points, order of columns, bias.

    From accuracy level 4 on the runtime rounds x to bytes where it has a kernel for that, and
    computes in float elsewhere; below it must not round.
    """
    x, packed, scale, zero, order, bias = (*inputs, *(None,) * 6)[:6]
    if order is not None or x.dtype != np.float32:
        return
    inner = int(node.attribute("K"))
    codes = block_codes(
        packed,
        scale,
        zero,
        bits=int(node.attribute("bits", 4)),
        block_size=int(node.attribute("block_size", 32)),
        columns=inner,
    )

    def at(level: int) -> Array:
        return matmul_nbits(x, codes, accuracy_level=level, bias=bias)

    summed = _summed(node, x, packed, scale, zero)
    if int(node.attribute("accuracy_level", 0)) == _INT8:
        yield Way((at(_INT8),), inner, summed=summed)
        note = "in float: no kernel for bytes in this shape"
        yield Way((at(0),), inner, note=note, summed=summed)
    else:
        yield Way((at(0),), inner, summed=summed)


def _summed(
    node: Node, x: Array, packed: Array, scale: Array, zero: Array | None
) -> Callable[[], Array]:
    """|x| @ (|q| + |z|) |s|, when it is asked for: codes and zeros may be summed apart."""

    def summed() -> Array:
        codes, scales, zeros = unpacked(node.attribute, packed, scale, zero)
        wide = (np.abs(codes) + np.abs(zeros[..., None])) * np.abs(scales[..., None])
        wide = wide.reshape(len(codes), -1)
        return np.asarray(np.abs(x).astype(np.float64) @ wide[:, : x.shape[-1]].T)

    return summed


def gather_block_quantized(node: Node, inputs: Inputs) -> Iterator[Way]:
    """Codes, indices, scales, zero points."""
    codes, ids, scale, zero = (*inputs, None)[:4]
    table = picked_rows(node, codes, scale, zero)
    axis = node.attribute("gather_axis", 0)
    places = np.where(ids < 0, ids + table.shape[axis], ids)
    yield Way((np.take(table, places, axis).astype(scale.dtype),))
