"""Biases: a vector v added to what a weight gives, in the bias of its node or behind it.

Conv, ConvTranspose    b + v, or v
Gemm                   alpha x W + beta (b + v alpha / beta)
MatMul, Add(_, b)      b + v
LSTM, GRU, RNN         B + v

A bias may stand behind Identity, Cast and their like. Source of correcting biases: Nagel et al.,
1906.04721.
"""

from typing import Any

import numpy as np

from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, element_type, np_dtype
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.patterns import No, added_behind, before_identity
from onnx_compress.ir.weights import Use

_OWN = {"Conv": 2, "com.microsoft.FusedConv": 2, "ConvTranspose": 2}  # slot of the bias


def add_to_bias(model: Model, use: Use, vector: Array, grow: bool = False) -> bool:
    """Add a vector [groups, rows] to the product of a weight; whether it could be done.

    `grow`: let MatMul and Gemm without a bias have one.
    """
    node, flat = use.node, vector.reshape(-1)
    if node.op in _OWN:
        slot = _OWN[node.op]
        return _added(model, node, slot, flat) if node.input(slot) else _put(model, use, slot, flat)
    if node.op in ("LSTM", "RNN") or (node.op == "GRU" and use.slot == 1):
        return _recurrent(model, use, vector)
    if node.op not in ("MatMul", "Gemm") or use.slot != 1 or use.layout.groups > 1:
        return False
    if node.op == "Gemm":
        flat = flat * node.attribute("alpha", 1.0)
        beta = node.attribute("beta", 1.0)
        if node.input(2) is not None:
            return bool(beta) and _added(model, node, 2, flat / beta)
        if grow and beta:
            return _put(model, use, 2, flat / beta)
    return _behind(model, node, flat) or (grow and _grown(model, use, flat))


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


def _put(model: Model, use: Use, slot: int, change: Array) -> bool:
    """A bias where there is none."""
    node = use.node
    while len(node.inputs) <= slot:
        node.inputs.append(None)
    b = Builder(model, node.graph, node.name or node.op, node)
    model.set_input(node, slot, b.constant(change.astype(_dtype(model, use)), "b"))
    return True


def _grown(model: Model, use: Use, change: Array) -> bool:
    """An Add behind a product."""
    node = use.node
    b = Builder(model, node.graph, node.name or node.op, node)
    bias = b.constant(change.astype(_dtype(model, use)), "b")
    model.insert_behind(node.output, b("Add", bias, bias))
    return True


def _added(model: Model, node: Node, slot: int, change: Array) -> bool:
    """Add to a constant along its last axis, in a copy if anything else reads it."""
    value = node.input(slot)
    array = Folded(model).array(value)
    if value is None or array is None or array.dtype.kind != "f":
        return False
    if array.ndim and array.shape[-1] not in (1, len(change)):
        return False
    new = (array.astype(np.float64) + change).astype(array.dtype)
    own = model.tensor(value) is not None and len(value.uses) == 1
    if own and new.shape == array.shape and not (value.exits or value.held):
        model.set_constant(value, new)
    else:
        b = Builder(model, node.graph, node.name or node.op, node)
        model.set_input(node, slot, b.constant(new, "b"))
        remove_unused(model, [value])
    return True


def _behind(model: Model, node: Node, change: Array) -> bool:
    """Into the Add that is all that reads a product."""
    found = added_behind(node)
    if isinstance(found, No):
        return False
    array = Folded(model).array(found[0].input(found[1]))
    if array is None or (array.shape[-1:] != (len(change),) and array.shape not in ((), (1,))):
        return False
    return _added(model, *found, change)


def _recurrent(model: Model, use: Use, change: Array) -> bool:
    """B of LSTM, GRU and RNN: [directions, Wb and Rb]."""
    node = use.node
    value = node.input(3)
    array = Folded(model).array(value)
    if value is not None and array is None:
        return False
    if array is None:
        array = np.zeros((change.shape[0], 2 * change.shape[1]), _dtype(model, use))
    new = array.astype(np.float64)
    at = 0 if use.slot == 1 else change.shape[1]
    new[:, at : at + change.shape[1]] += change
    while len(node.inputs) <= 3:
        node.inputs.append(None)
    b = Builder(model, node.graph, node.name or node.op, node)
    model.set_input(node, 3, b.constant(new.astype(array.dtype), "b"))
    remove_unused(model, [value])
    return True


def _dtype(model: Model, use: Use) -> Any:
    """Of the operand that a use reads, and so of its node."""
    tensor = model.tensor(use.path.root)
    if use.path.cast_to is not None:
        return np_dtype(use.path.cast_to)
    return np.dtype(np.float32) if tensor is None else np_dtype(element_type(tensor))
