"""Codes of eight bits: to the nearest, then by coordinate descent where there are data.

The weight is read in bounded pieces, unless data are there to fit its codes to.
"""

from dataclasses import replace

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Use, Weight
from onnx_compress.ir.weights.forms import Affine
from onnx_compress.ir.weights.order import order_of
from onnx_compress.kernels.affine import quantize, scale_for
from onnx_compress.passes.quant.data import Seen
from onnx_compress.passes.solvers.descent import descend
from onnx_compress.passes.solvers.grid import Grid
from onnx_compress.passes.solvers.paired import TOP, drawn_in, within

_SWEEPS = 2


def round_to_nearest(weight: Weight, bits: int) -> tuple[Array, Array] | No:
    """int8 codes and scales along the weight's channels; `No` where it is not finite."""
    axes = weight.channel_axes
    top = weight.largest()
    if not np.isfinite(top).all():
        return No("holds NaN or infinity")
    scale = scale_for(top, bits)
    codes = np.empty(weight.shape, np.int8)
    for place, array in weight.pieces():
        codes[place] = quantize(array, scale[place] if 0 in axes else scale, bits)
    return codes, scale


def descended(
    weight: Weight,
    use: Use,
    form: Affine,
    aim: Array,
    seen: Seen,
    partner: Array | None = None,
    kept: Array | None = None,
) -> Affine:
    """The same scales with codes of less loss; the form as it is where scales cross its rows.

    `aim`: [groups, rows, columns], what the codes are to come near; `seen`: what H is of;
    `partner`: of columns that are added in 16 bits; `kept`: of a pruned weight, what is not zero.
    """
    if form.scale is None or not form.scales_along(use):
        return form
    order = order_of(weight.shape, use)
    wide = order.matrix(np.broadcast_to(form.scale, weight.shape))
    if (wide != wide[:, :1]).any():  # of a grouped ConvTranspose, inputs have scales, too
        return form
    scale = wide[:, :1].astype(np.float64)
    scale = scale.reshape(*aim.shape[:2], 1)
    zero = np.full(scale.shape, float(TOP))
    codes = order.matrix(form.codes).astype(np.float32).reshape(aim.shape) + TOP
    for place, part in seen.parts:
        columns = place.stop - place.start
        # the one code more that two's complement has is left out
        grid = Grid(scale, zero, 8, columns, columns, levels=2 * TOP + 1)
        given = None if kept is None else kept[..., place]
        beside = None if partner is None else within(partner, place)
        start = codes[..., place]
        codes[..., place], _ = descend(
            aim[..., place], part.damped, grid, start, _SWEEPS, kept=given, partner=beside
        )
    codes -= TOP
    if partner is not None:  # those whose partner is in another part
        codes = drawn_in(codes, partner)
    new = order.restore(codes.reshape(order.rows, order.columns)).astype(np.int8)
    return replace(form, codes=np.ascontiguousarray(new))
