"""Convolutions of bytes, recomputed, window by window.

    ConvInteger    sum (x - zx)(w - zw)
    QLinearConv    clip(rint(f32(sum + b) f32(f32(sx sw) / sy)) + zy)

Padding is the zero point, so that it adds nothing.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights.unrolled import convolution_windows
from onnx_compress.passes.verify.recompute import integers
from onnx_compress.passes.verify.recompute.products import SATURATED
from onnx_compress.passes.verify.recompute.quantize import requantized
from onnx_compress.passes.verify.recompute.way import Inputs, Way


def conv_integer(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, w, zero points; int32."""
    x, w, zx, zw = (*inputs, None, None)[:4]
    yield Way((_sums(node, x, zx, w, zw),))


def qlinear_conv(node: Node, inputs: Inputs) -> Iterator[Way]:
    """x, sx, zx, w, sw, zw, sy, zy, bias (int32)."""
    x, sx, zx, w, sw, zw, sy, zy, bias = (*inputs, None)[:9]
    if node.attribute("channels_last", 0):
        return
    rank = x.ndim - 2
    factor = ((sx * sw).astype(np.float32) / sy).astype(np.float32).reshape(-1, *(1,) * rank)

    def finish(total: Array) -> Array:
        whole = total if bias is None else total + bias.reshape(-1, *(1,) * rank)
        return requantized(whole, factor, zy)

    yield Way((finish(_sums(node, x, zx, w, zw)),))
    if integers.may_saturate(x, w) and node.attribute("group", 1) == 1:
        total = _sums(node, x, zx, w, zw, clipped=True)
        yield Way((finish(total),), note=SATURATED, warns=True)


def _sums(
    node: Node, x: Array, zx: Array | None, w: Array, zw: Array | None, clipped: bool = False
) -> Array:
    """[N, rows, space...], int32."""
    groups, rows = node.attribute("group", 1), len(w)
    kernel = w.shape[2:]
    start = 0 if zx is None else int(np.asarray(zx).reshape(-1)[0])
    wide = x.astype(np.int32) - start
    zero = None if zw is None else np.asarray(zw).astype(np.int32).reshape(-1)
    matrix = w.reshape(groups, rows // groups, -1)
    parts = convolution_windows(node, wide, kernel, groups, None)
    found: list[Array] = []
    for part in parts:
        if clipped:
            found.append(_clipped(part[0], start, matrix[0], zero, prod(kernel))[None])
        else:
            turned = matrix.astype(np.int32)
            if zero is not None:
                each = zero.reshape(groups, -1, 1) if zero.size > 1 else zero
                turned = turned - each
            found.append(integers.product(part, turned.transpose(0, 2, 1)))
    flat = np.concatenate(found, 1)  # [groups, N * places, rows / groups]
    places = flat.shape[1] // max(len(x), 1)
    split = flat.reshape(groups, len(x), places, rows // groups).transpose(1, 0, 3, 2)
    return split.reshape(len(x), rows, *_places(node, x.shape[2:], kernel))


def _clipped(part: Array, start: int, matrix: Array, zero: Array | None, area: int) -> Array:
    """Pairs are of neighbouring channels: the runtime's windows hold channels last."""

    def last(array: Array) -> Array:
        return array.reshape(len(array), -1, area).transpose(0, 2, 1).reshape(len(array), -1)

    codes = (last(part) + start).astype(np.uint8)
    return integers.saturated(codes, start, last(matrix).T, zero)


def _places(node: Node, space: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
    """How many windows there are along each axis."""
    rank = len(space)
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    mode = node.attribute("auto_pad", "NOTSET")
    pads = node.attribute("pads", [0] * 2 * rank) if mode in ("NOTSET", "") else [0] * 2 * rank
    found = []
    for at in range(rank):
        wide = (kernel[at] - 1) * dilations[at] + 1
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            found.append(-(-space[at] // strides[at]))
        else:
            whole = space[at] + pads[at] + pads[rank + at]
            found.append(max((whole - wide) // strides[at] + 1, 0))
    return found
