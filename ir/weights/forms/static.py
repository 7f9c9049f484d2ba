"""Convolution of integers, with an input that was quantized before.

    Conv(DequantizeLinear(x, sx), W, b)
        ->  Conv(DequantizeLinear(x, sx), DequantizeLinear(codes, s), DequantizeLinear(b32, sx * s))

With a QuantizeLinear behind it, ONNX Runtime makes one QLinearConv of all that. b32: int32.
"""

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights.forms.base import FLOAT, Coded, Reader, Stored
from onnx_compress.ir.weights.weight import Use

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
    step = _input_scale(b, node)
    bias = b.model.constant(node.input(BIAS))
    if bias is not None:
        codes, scale = _with_room(codes, scale, step, bias)
        fine = (step * scale).astype(np.float32)
        whole = np.rint(bias / fine.astype(np.float64)).astype(np.int32)
        parts = b.constant(whole, "b"), b.constant(fine, "bs")
        b.model.set_input(node, BIAS, b("DequantizeLinear", *parts, axis=0))
    operand = b("DequantizeLinear", b.constant(codes, "q"), b.constant(scale, "s"), axis=0)
    b.model.set_input(node, use.slot, operand)


def _input_scale(b: Builder, node: Node) -> np.float32:
    made = node.inputs[0].producer if node.inputs[0] is not None else None
    found = b.model.constant(made.input(1)) if made is not None else None
    if found is None:
        raise InvalidError("its input is not quantized", where=node.name)
    return np.float32(found.reshape(-1)[0])


def _with_room(codes: Array, scale: Array, step: np.float32, bias: Array) -> tuple[Array, Array]:
    """Larger scales for channels whose bias would not fit: weights next to nothing, dead ones."""
    least = np.abs(bias.astype(np.float64)) / (float(step) * _LARGEST)
    new = np.maximum(scale, least).astype(np.float32)
    if (new == scale).all():
        return codes, scale
    share = (scale.astype(np.float64) / new).reshape(-1, *[1] * (codes.ndim - 1))
    return np.rint(codes * share).astype(np.int8), new


def coded_bias(node: Node) -> Value | None:
    """The int32 bias of a convolution that `read` has written."""
    made = node.input(BIAS)
    decoded = made.producer if made is not None else None
    return decoded.input(0) if decoded is not None and decoded.op == "DequantizeLinear" else None


READER = Reader("static", 13, allows, read)
