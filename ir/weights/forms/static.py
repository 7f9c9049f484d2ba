"""Convolution of integers, with an input that was quantized before.

    Conv(DequantizeLinear(x, sx), W, b)
        ->  Conv(DequantizeLinear(x, sx), DequantizeLinear(codes, s), DequantizeLinear(b32, sx * s))

With a QuantizeLinear behind it, ONNX Runtime makes one QLinearConv of all that. b32: int32.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights.forms.base import FLOAT, Coded, Reader, Stored
from onnx_compress.ir.weights.forms.sparse import put_smaller
from onnx_compress.ir.weights.path import stored_floats
from onnx_compress.ir.weights.weight import Use

C = TypeVar("C", bound=Coded)
BIAS = 2  # slot
_LARGEST = 2.0**30  # of a bias: room is left for the sum


def allows(use: Use, coded: Coded) -> No | None:
    """A convolution of a quantized input, int8 codes with a scale for each output channel."""
    if use.node.op != "Conv":
        return No(f"{use.node.op} is no convolution")
    if coded.codes.dtype != np.int8 or coded.scale is None or coded.zero_point is not None:
        return No("only for int8 codes with scales and no zero points")
    if coded.element != FLOAT or use.path.casts:
        return No("only for float32")
    if not coded.scales_along(use):
        return No("the scales do not lie along the output features")
    made = use.node.inputs[0].producer if use.node.inputs[0] is not None else None
    if made is None or made.op != "DequantizeLinear":
        return No("its input is not quantized")
    return None


def read(use: Use, stored: Stored) -> None:
    """Let the node read codes for its weight and its bias."""
    node, b = use.node, stored.builder(use)
    if stored.coded.scale is None:
        raise ValueError("a reader was used that does not allow this")
    codes = use.path.apply(stored.coded.codes)
    rows = len(codes)
    wide = np.broadcast_to(stored.coded.scale, stored.coded.codes.shape)
    scale = use.path.apply(wide).reshape(rows, -1)[:, 0]
    step = _input_scale(b.model, node)
    plain = node.input(BIAS)
    bias = stored_floats(b.model, plain)
    if bias is not None:
        fine = (step * scale).astype(np.float32)
        whole = np.clip(np.rint(bias / fine.astype(np.float64)), -2 * _LARGEST, 2 * _LARGEST - 1)
        parts = b.constant(whole.astype(np.int32), "b"), b.constant(fine, "bs")
        b.model.set_input(node, BIAS, b("DequantizeLinear", *parts, axis=0))
        remove_unused(b.model, [plain])
    operand = b("DequantizeLinear", put_smaller(b, codes, "q"), b.constant(scale, "s"), axis=0)
    b.model.set_input(node, use.slot, operand)


def _input_scale(model: Model, node: Node) -> np.float32:
    made = node.inputs[0].producer if node.inputs[0] is not None else None
    found = model.constant(made.input(1)) if made is not None else None
    if found is None:
        raise InvalidError("its input is not quantized", where=node.name)
    return np.float32(found.reshape(-1)[0])


def with_room(model: Model, use: Use, coded: C) -> C:
    """Larger scales for channels whose bias would not fit: weights next to nothing, dead ones."""
    bias = stored_floats(model, use.node.input(BIAS))
    if bias is None or coded.scale is None or coded.scale.ndim != coded.codes.ndim:
        return coded
    step = _input_scale(model, use.node)
    least = np.abs(bias.astype(np.float64)) / (float(step) * _LARGEST)
    # the stored axis of the output channels: 0 of what the node reads
    (axis,) = use.path.stored_axes((0,), coded.codes.shape) or (0,)
    least = least.reshape([-1 if at == axis else 1 for at in range(coded.codes.ndim)])
    scale = np.maximum(coded.scale, least).astype(coded.scale.dtype)
    if (scale == coded.scale).all():
        return coded
    share = coded.scale.astype(np.float64) / scale
    return replace(coded, codes=np.rint(coded.codes * share).astype(np.int8), scale=scale)


def coded_bias(node: Node) -> Value | None:
    """The int32 bias of a convolution that `read` has written."""
    made = node.input(BIAS)
    decoded = made.producer if made is not None else None
    return decoded.input(0) if decoded is not None and decoded.op == "DequantizeLinear" else None


READER = Reader("static", 13, allows, read)
