"""A vector added to what an operator gives, in its bias if it has one.

Conv, Gemm(x, W, b)      ->  b + v           MatMul(x, W), Add(_, b)  ->  b + v
Conv, Gemm(x, W)         ->  with v          MatMul(x, W)             ->  Add(_, v)
"""

import numpy as np

from onnx_compress.ir.graph import Model, Value
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.patterns import No, added_behind, before_identity
from onnx_compress.ir.graph.view import Node
from onnx_compress.ir.weights import Use


def add_to_bias(model: Model, use: Use, vector: Array) -> bool:
    """Add a vector [rows of all groups]; False where the bias is computed or has another shape."""
    node = use.node
    if node.op == "MatMul" and use.layout.groups > 1:  # of each group another one
        return False
    if node.op == "MatMul":
        return _behind(model, node, vector)
    if node.attribute("alpha", 1.0) != 1.0 or node.attribute("beta", 1.0) != 1.0:
        return False
    if node.input(2) is None:
        while len(node.inputs) <= 2:
            node.inputs.append(None)
        _set(model, node, 2, vector.astype(np.float32), f"{node.name}_bias")
        return True
    return _add(model, node, 2, vector)


def has_bias(model: Model, use: Use) -> bool:
    """Whether there is one, of its own and of full length: adding to it adds no bytes."""
    node, slot = use.node, 2
    if node.op == "MatMul":
        found = added_behind(node)
        if isinstance(found, No) or use.layout.groups > 1:
            return False
        node, slot = found
    value = node.input(slot)
    array = Folded(model).array(value)
    if value is None or array is None or array.size != use.layout.groups * use.layout.rows:
        return False
    root = before_identity(value)
    return all(len(one.uses) == 1 and not one.exits for one in (value, root) if one is not None)


def _behind(model: Model, node: Node, vector: Array) -> bool:
    found = added_behind(node)
    if not isinstance(found, No) and _add(model, *found, vector):
        return True
    out = node.output
    bias = model.add_constant(node.graph, vector.astype(np.float32), f"{node.name}_bias")
    total = model.add_node(node.graph, "Add", [out, bias], stem=out.name, like=node)
    made = total.producer
    model.replace_uses(out, total, only=lambda reader: reader is not made)
    if model.graph in out.exits:  # the interface keeps its name
        model.replace_uses(out, total)
        if made is not None:
            model.set_input(made, 0, out)
    return True


def _add(model: Model, node: Node, slot: int, vector: Array) -> bool:
    old = Folded(model).array(node.input(slot))  # also behind Identity, Cast and their like
    if (
        old is None
        or old.size not in (1, len(vector))
        or old.shape[-1:] not in ((), (1,), vector.shape)
    ):
        return False
    wide = old.reshape(-1) if old.size == len(vector) else np.full(len(vector), old.reshape(-1)[0])
    shape = old.shape if old.size == len(vector) else vector.shape
    total = (wide.astype(np.float64) + vector).reshape(shape).astype(old.dtype)
    _set(model, node, slot, total, f"{node.name}_bias")
    return True


def _set(model: Model, node: Node, slot: int, array: Array, name: str) -> None:
    value: Value | None = node.input(slot)
    if value is not None and len(value.uses) == 1 and not value.exits and not value.held:
        known = model.constant(value)
        if known is not None and known.shape == array.shape and known.dtype == array.dtype:
            model.set_constant(value, array)
            return
    model.set_input(node, slot, model.add_constant(node.graph, array, name))
    remove_unused(model, [value])
