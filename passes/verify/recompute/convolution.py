"""Convolutions of bytes, recomputed.

    ConvInteger    sum (x - zx)(w - zw)
    QLinearConv    clip(rint(f32(sum + b) f32(f32(sx sw) / sy)) + zy)

Padding is the zero point, so that it adds nothing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights.unrolled import pads
from onnx_compress.kernels.convolution import conv_integer
from onnx_compress.kernels.integer import combined_scale
from onnx_compress.passes.verify.recompute.products import SATURATED, may_saturate, requantizing
from onnx_compress.passes.verify.recompute.way import Inputs, Way


def conv_integer_node(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, w, zero points; int32."""
    x, w, zx, zw = (*inputs, None, None)[:4]
    yield Way((_sums(node, x, zx, w, zw),))


def qlinear_conv(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, sx, zx, w, sw, zw, sy, zy, bias (int32); the runtime's own one may hold channels last."""
    x, sx, zx, w, sw, zw, sy, zy, bias = (*inputs, None)[:9]
    last = bool(node.attribute("channels_last", 0))
    x = np.moveaxis(x, -1, 1) if last else x
    finish = requantizing(combined_scale(sx, sw, sy), zy, axis=1)
    shift = 0 if bias is None else bias.reshape(-1, *(1,) * (x.ndim - 2))
    for saturate in (False, True) if may_saturate(x, w) else (False,):
        out = finish(_sums(node, x, zx, w, zw, saturate) + shift)
        out = np.moveaxis(out, 1, -1) if last else out
        yield Way((out,), note=SATURATED if saturate else "", warns=saturate)


def _sums(
    node: Node, x: Array, zx: Array | None, w: Array, zw: Array | None, saturate: bool = False
) -> Array:
    """int32 [N, rows, space...]."""
    rank = x.ndim - 2
    kernel = w.shape[2:]
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    wide = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    around = pads(node, x.shape[2:], wide, strides)
    return conv_integer(
        np.ascontiguousarray(x),
        np.ascontiguousarray(w),
        _one(zx),
        0 if zw is None else zw,
        strides=strides,
        pads=[begin for begin, _ in around] + [end for _, end in around],
        dilations=dilations,
        group=node.attribute("group", 1),
        saturate=saturate,
    )


def _one(zero: Any) -> int:
    return 0 if zero is None else int(np.asarray(zero).reshape(-1)[0])
