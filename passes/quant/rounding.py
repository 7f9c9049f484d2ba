"""Codes of a weight, by rounding to the nearest; the weight is read in bounded pieces."""

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import Weight
from onnx_compress.kernels.affine import largest, quantize, scale_for


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
