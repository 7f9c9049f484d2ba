"""Codes of eight bits: to the nearest, then by coordinate descent where there are data.

The weight is read in bounded pieces, unless data are there to fit its codes to.
"""

from dataclasses import replace

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight
from onnx_compress.ir.weights.forms import Affine
from onnx_compress.ir.weights.order import order_of
from onnx_compress.kernels.affine import largest, quantize, scale_for
from onnx_compress.passes.quant.numbers import solved
from onnx_compress.passes.quant.plan import main_use
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.statistics import Moments

_SWEEPS = 2


def round_to_nearest(weight: Weight, bits: int) -> tuple[Array, Array] | No:
    """int8 codes and scales along the weight's channels; `No` where it is not finite."""
    axes = weight.channel_axes
    tops: list[Array] = []
    for _, array in weight.pieces():
        tops.append(largest(array, axes))
        if not np.isfinite(tops[-1]).all():
            return No("holds NaN or infinity")
    top = np.concatenate(tops) if 0 in axes else np.maximum.reduce(tops)
    scale = scale_for(top, bits)
    codes = np.empty(weight.shape, np.int8)
    for place, array in weight.pieces():
        codes[place] = quantize(array, scale[place] if 0 in axes else scale, bits)
    return codes, scale


def descended(weight: Weight, form: Affine, bits: int, seen: Moments) -> Affine:
    """The same scales with codes of less loss; the form as it is where scales cross its rows."""
    use = main_use(weight)
    if use is None or form.scale is None or not form.scales_along(use):
        return form
    order = order_of(weight.shape, use)
    scale = order.matrix(np.broadcast_to(form.scale, weight.shape))[:, :1].astype(np.float64)
    half = 1 << (bits - 1)
    top = half - 1
    # codes from -top to top: the one more that two's complement has is left out
    grid = Grid(scale, np.full(scale.shape, float(top)), bits, order.columns, order.columns)
    start = order.matrix(form.codes).astype(np.float64) + top
    codes, _ = solved(order.matrix(weight.array()), start, grid, seen, False, _SWEEPS)
    new = order.restore(np.minimum(codes, 2 * top) - top).astype(np.int8)
    return replace(form, codes=np.ascontiguousarray(new))
