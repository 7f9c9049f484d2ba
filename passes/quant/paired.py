"""Eight bits on processors whose products of bytes saturate: which columns add up in 16 bits.

    MatMul   W [K, N]           columns 0 1 | 2 3 | ...
    Conv     W [N, C, 3, 3]     the same, columns run place by place, through the channels of each

That of a depthwise convolution, which ONNX Runtime computes in 32 bits, none.
"""

from dataclasses import replace

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms import Affine
from onnx_compress.ir.weights.order import order_of
from onnx_compress.kernels.affine import quantize
from onnx_compress.kernels.columns import MOST
from onnx_compress.passes.solvers.paired import drawn_in, largest_pair


def partners(use: Use) -> Array | None:
    """[columns]: each one's neighbour, -1 for none; None if nothing is added in 16 bits."""
    columns, shape = use.layout.columns, use.layout.shape
    run = np.arange(columns)
    if not use.multiplied:
        if shape[1] == use.layout.rows == 1:
            return None
        run = run.reshape(shape[1], -1).T.reshape(-1)
    found = np.full(columns, -1)
    even = columns // 2 * 2
    found[run[0:even:2]], found[run[1:even:2]] = run[1:even:2], run[0:even:2]
    return found


def kept_in(weight: Weight, use: Use, form: Affine, partner: Array) -> Affine:
    """The form with scales so large that neighbours hardly ever have to be made smaller."""
    array = weight.array()
    if form.scale is None or not form.scales_along(use):
        return form
    order = order_of(weight.shape, use)
    least = largest_pair(order.matrix(array), partner) / MOST
    wide = order.restore(np.broadcast_to(least, (order.rows, order.columns)))
    others = tuple(axis for axis in range(wide.ndim) if form.scale.shape[axis] == 1)
    scale = np.maximum(form.scale, wide.max(axis=others, keepdims=True)).astype(form.scale.dtype)
    codes = drawn_in(order.matrix(quantize(array, scale, 8)), partner)
    return replace(form, codes=np.ascontiguousarray(order.restore(codes)), scale=scale)
