"""How much faster a model should be, by the figures of a target: nothing is run.

    time ~ sum over nodes of MACs / how much faster the target is with this form of product

What is no matrix product counts as float32, and what has no multiply-accumulates not at all.
"""

from math import prod

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.passes.target import Target


def estimated_speed(
    before: tuple[Model, Shapes], after: tuple[Model, Shapes], target: Target
) -> float:
    """How many times faster `after` should be than `before`; 1.0 where nothing can be told."""
    old, new = (_time(model, shapes, target) for model, shapes in (before, after))
    return old / new if old and new else 1.0


def _time(model: Model, shapes: Shapes, target: Target) -> float:
    fixed = fixed_nodes(model, model.graphs())
    return sum(
        (macs(node, shapes) or 0) / _speed(node, shapes, target)
        for node in model.nodes()
        if node not in fixed
    )


def _speed(node: Node, shapes: Shapes, target: Target) -> float:
    reader = _reader(node)
    sizes = [shapes.shape(node.input(slot)) for slot in (0, 1)]
    if not reader or not sizes[0] or not sizes[1]:
        return 1.0
    m, columns = prod(sizes[0][:-1]), sizes[0][-1]
    rows = node.attribute("N") or prod(sizes[1]) // max(columns, 1)
    return target.product_speed(reader, columns, rows, m) or 1.0


def _reader(node: Node) -> str:
    """The form of a product, by what it reads, as targets call it."""
    if node.op == "MatMulInteger":
        return "dynamic"
    if node.op == "com.microsoft.MatMulNBits":
        return f"nbits{node.attribute('bits', 4)}"
    weight = node.input(1)
    made = weight.producer if weight is not None and node.op in ("MatMul", "Gemm") else None
    if made is None or made.op != "DequantizeLinear":
        return ""
    return "blocked4" if made.attribute("block_size", 0) else "dequantize"
