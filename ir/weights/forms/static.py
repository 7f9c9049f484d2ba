"""Convolution or product of integers, with an input that was quantized before.

    Conv(DequantizeLinear(x, sx), W, b)
        ->  Conv(DequantizeLinear(x, sx), DequantizeLinear(codes, s), DequantizeLinear(b32, sx * s))

With a QuantizeLinear behind it, ONNX Runtime makes one QLinearConv of all that. b32: int32. Of
Gemm it makes QGemm, where the codes have zero points, and of MatMul QLinearMatMul; without a
QuantizeLinear they give floats.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.weights.forms.base import FLOAT, Coded, Reader, Stored
from onnx_compress.ir.weights.forms.sparse import put_smaller
from onnx_compress.ir.weights.path import stored_floats
from onnx_compress.ir.weights.weight import Use

C = TypeVar("C", bound=Coded)
BIAS = 2  # slot
OPERATORS = ("Conv", "MatMul", "Gemm")
_LARGEST = 2.0**30  # of a bias: room is left for the sum


def allows(use: Use, coded: Coded) -> No | None:
    """A quantized input, int8 codes with a scale for each output channel; no factors of Gemm."""
    node = use.node
    if node.op not in OPERATORS or use.slot != 1:
        return No(f"{node.op} is no convolution, and no product by a matrix on its right")
    if use.multiplied and len(use.path.shape) != 2:
        return No("a batch of matrices")
    if node.attribute("transA", 0) or any(node.attribute(a, 1.0) != 1 for a in ("alpha", "beta")):
        return No("its input is turned, or there are factors")
    if coded.codes.dtype != np.int8 or coded.scale is None or coded.zero_point is not None:
        return No("only for int8 codes with scales and no zero points")
    if coded.element != FLOAT or use.path.casts:
        return No("only for float32")
    if not coded.scales_along(use):
        return No("the scales do not lie along the output features")
    made = node.inputs[0].producer if node.inputs[0] is not None else None
    if made is None or made.op != "DequantizeLinear":
        return No("its input is not quantized")
    return None


def read(use: Use, stored: Stored) -> None:
    """Let the node read codes for its weight and its bias."""
    node, b = use.node, stored.builder(use)
    if stored.coded.scale is None:
        raise ValueError("a reader was used that does not allow this")
    codes = use.path.apply(stored.coded.codes)
    (axis,) = use.layout.channel_axes
    wide = use.path.apply(np.broadcast_to(stored.coded.scale, stored.coded.codes.shape))
    scale = np.moveaxis(wide, axis, 0).reshape(codes.shape[axis], -1)[:, 0]
    step = _input_scale(b.model, node)
    plain = node.input(BIAS)
    bias = _vector(b.model, plain, len(scale))
    if bias is not None:
        fine = (step * scale).astype(np.float32)
        whole = np.clip(np.rint(bias / fine.astype(np.float64)), -2 * _LARGEST, 2 * _LARGEST - 1)
        coded = b.constant(whole.astype(np.int32), "b"), b.constant(fine, "bs")
        b.model.set_input(node, BIAS, b("DequantizeLinear", *coded, axis=0))
        remove_unused(b.model, [plain])
    parts = [put_smaller(b, codes, "q"), b.constant(scale, "s")]
    if node.op == "Gemm":
        parts.append(b.constant(np.zeros(len(scale), np.int8), "z"))
    b.model.set_input(node, use.slot, b("DequantizeLinear", *parts, axis=axis))


def _vector(model: Model, value: Value | None, size: int) -> Array | None:
    """A stored bias, one number for each output; None where there is none of that shape."""
    array = stored_floats(model, value)
    if array is None or array.size not in (1, size) or array.shape[-1:] not in ((), (array.size,)):
        return None
    return np.broadcast_to(array.reshape(-1), (size,))


def _input_scale(model: Model, node: Node) -> np.float32:
    made = node.inputs[0].producer if node.inputs[0] is not None else None
    found = model.constant(made.input(1)) if made is not None else None
    if found is None:
        raise InvalidError("its input is not quantized", where=node.name)
    return np.float32(found.reshape(-1)[0])


def with_room(model: Model, use: Use, coded: C) -> C:
    """Larger scales for channels whose bias would not fit: weights next to nothing, dead ones."""
    bias = _vector(model, use.node.input(BIAS), use.layout.groups * use.layout.rows)
    if bias is None or coded.scale is None or coded.scale.ndim != coded.codes.ndim:
        return coded
    step = _input_scale(model, use.node)
    least = np.abs(bias.astype(np.float64)) / (float(step) * _LARGEST)
    (axis,) = use.path.stored_axes(use.layout.channel_axes, coded.codes.shape) or (0,)
    least = least.reshape([-1 if at == axis else 1 for at in range(coded.codes.ndim)])
    scale = np.maximum(coded.scale, least).astype(coded.scale.dtype)
    if (scale == coded.scale).all():
        return coded
    share = coded.scale.astype(np.float64) / scale
    return replace(coded, codes=np.rint(coded.codes * share).astype(np.int8), scale=scale)


def coded_bias(node: Node) -> Value | None:
    """The int32 bias of a convolution or a Gemm that `read` has written."""
    made = node.input(BIAS)
    decoded = made.producer if made is not None else None
    return decoded.input(0) if decoded is not None and decoded.op == "DequantizeLinear" else None


READER = Reader("static", 13, allows, read)
