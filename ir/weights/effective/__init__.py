"""Effective weights: what operators multiply by or pick from, whatever form it is stored in.

    MatMul(x, Mul(Cast(q), s))                       q s
    Mul(Cast(MatMulInteger(Q(x), q)), sx s)          q s
    MatMulNBits(x, packed, s, z)                     (unpacked - z) s

The way back from a graph to numbers, written without a look at the forms that made it: so that one
can be checked by the other, and models of other tools can be read.
"""

from collections.abc import Callable, Iterator

from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node
from onnx_compress.ir.weights.effective.base import Effective
from onnx_compress.ir.weights.effective.blocks import blocks, picked_blocks
from onnx_compress.ir.weights.effective.integer import (
    Slots,
    integer_convolution,
    integer_product,
)
from onnx_compress.ir.weights.effective.plain import plain

_CODED: dict[str, Callable[[Model, Node, Folded], Iterator[Effective]]] = {
    "MatMulInteger": integer_product,
    "ConvInteger": integer_convolution,
    "QLinearMatMul": Slots(3, 4, 5),
    "QLinearConv": Slots(3, 4, 5, rows_first=True),
    "com.microsoft.QLinearConv": Slots(3, 4, 5, rows_first=True),
    "com.microsoft.QGemm": Slots(3, 4, 5),
    "com.microsoft.MatMulIntegerToFloat": Slots(1, 3, 5),
    "com.microsoft.DynamicQuantizeMatMul": Slots(1, 2, 3),
    "com.microsoft.MatMulNBits": blocks,
    "com.microsoft.GatherBlockQuantized": picked_blocks,
}


def effective(model: Model, graphs: list[Graph] | None = None) -> list[Effective]:
    """All weights of all operators that are known, at any depth, in the order of the graphs."""
    found: list[Effective] = []
    folded = Folded(model)
    for graph in graphs or list(model.graphs()):
        for node in graph.sorted():
            found += of_node(model, node, folded)
    return found


def of_node(model: Model, node: Node, folded: Folded | None = None) -> list[Effective]:
    """The weights that one operator reads."""
    folded = folded or Folded(model)
    row = _CODED.get(node.op)
    if row is not None:
        return list(row(model, node, folded))
    return list(plain(model, node, folded))


__all__ = ["Effective", "effective", "of_node"]
