"""Bias correction: what a changed weight V adds to the mean of the output is taken off again.

    y = V x + b    ->    b -= E[(V - W) x] = (V - W) E[x]

Into the bias of the node, or the Add behind a product; a bias may stand behind Identity, Cast and
their like, an Add behind Identity. Source: Nagel et al., 1906.04721.
"""

from typing import Any

import numpy as np

from onnx_compress.ir.graph import Model, Node, Value
from onnx_compress.ir.graph.builder import Builder
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array, element_type, np_dtype
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.patterns import No, added_behind
from onnx_compress.ir.weights import Use

_OWN = {"Conv": 2, "com.microsoft.FusedConv": 2, "ConvTranspose": 2}  # slot of the bias


def correct(model: Model, use: Use, shift: Array) -> bool:
    """Take `shift` [groups, rows] off the output of a use; whether it could be done."""
    node = use.node
    if node.op in _OWN:
        return _vector(model, use, _OWN[node.op], -shift.reshape(-1))
    if node.op in ("LSTM", "RNN") or (node.op == "GRU" and use.slot == 1):
        return _recurrent(model, use, -shift)
    if use.slot != 1 or use.layout.groups > 1:
        return False
    if node.op == "Gemm" and node.input(2) is not None:
        beta = node.attribute("beta", 1.0)
        return bool(beta) and _added(model, node, 2, -shift.reshape(-1) / beta)
    if node.op in ("MatMul", "Gemm"):
        return _behind(model, node, -shift.reshape(-1))
    return False


def _vector(model: Model, use: Use, slot: int, change: Array) -> bool:
    """Add to a bias in a slot, or put one there."""
    node = use.node
    if node.input(slot) is not None:
        return _added(model, node, slot, change)
    while len(node.inputs) <= slot:
        node.inputs.append(None)
    b = Builder(model, node.graph, node.name or node.op, node)
    model.set_input(node, slot, b.constant(change.astype(_dtype(model, use)), "b"))
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
    if isinstance(found, No) or not _fits(model, found[0].input(found[1]), change):
        return False
    return _added(model, *found, change)


def _fits(model: Model, value: Value | None, change: Array) -> bool:
    array = Folded(model).array(value)
    if array is None or array.dtype.kind != "f":
        return False
    return array.shape[-1:] == (len(change),) or array.shape in ((), (1,))


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
