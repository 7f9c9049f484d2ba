"""Multiply-accumulates of one node: a table by operator."""

from collections.abc import Callable
from math import prod

from onnx_compress.ir.analysis.shapes import Shapes
from onnx_compress.ir.graph.view import Node

Count = Callable[[Node, Shapes], int | None]


def _shape(node: Node, slot: int, shapes: Shapes) -> tuple[int, ...] | None:
    return shapes.shape(node.input(slot))


def _conv(slot: int) -> Count:
    def count(node: Node, shapes: Shapes) -> int | None:
        weight, out = _shape(node, slot, shapes), shapes.shape(node.output)
        return None if weight is None or out is None else prod(out) * prod(weight[1:])

    return count


def _conv_transpose(node: Node, shapes: Shapes) -> int | None:
    weight, source = _shape(node, 1, shapes), _shape(node, 0, shapes)
    return None if weight is None or source is None else prod(source) * prod(weight[1:])


def _product(node: Node, shapes: Shapes) -> int | None:
    source, out = _shape(node, 0, shapes), shapes.shape(node.output)
    if source is None or out is None or not source:
        return None
    return prod(out) * source[-2 if node.attribute("transA", 0) else -1]


def _n_bits(node: Node, shapes: Shapes) -> int | None:
    source = _shape(node, 0, shapes)
    return None if source is None else prod(source) * int(node.attribute("N", 0))


def _recurrent(node: Node, shapes: Shapes) -> int | None:
    source, w, r = (_shape(node, slot, shapes) for slot in range(3))
    if source is None or w is None or r is None:
        return None
    return source[0] * source[1] * (prod(w) + prod(r))


MACS: dict[str, Count] = {
    "Conv": _conv(1),
    "com.microsoft.FusedConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "com.microsoft.MatMulNBits": _n_bits,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def macs(node: Node, shapes: Shapes) -> int | None:
    """Multiply-accumulates of one run of the node; 0 if it has none, None if shapes are unknown."""
    count = MACS.get(node.op)
    return 0 if count is None else count(node, shapes)
