"""BatchNormalization into its neighbour:  y = s x + t

    s = gamma / sqrt(var + eps),  t = beta - s mean

    BN(Conv(x, W, b))   ->   Conv(x, s W, s b + t)
    Conv(BN(x), W, b)   ->   Conv(x, W s, b + sum W t)       only without padding, or with t = 0

Likewise ConvTranspose (after it only), Gemm and MatMul of matrices. Computed in float64.
"""

from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.patterns import No, constant_inputs, producer, sole_consumer, unshared
from onnx_compress.ir.graph.view import Value
from onnx_compress.ir.weights.layout import Layout
from onnx_compress.ir.weights.operators import OPERATORS
from onnx_compress.passes.base import Entry, Report

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Linear:
    """A node y = W x + b with constant W that nothing else reads. `bias` is one number a row."""

    model: Model
    node: Node
    weight: Value
    layout: Layout
    bias: Array

    @staticmethod
    def of(model: Model, node: Node, types: dict[Value, TensorType]) -> "_Linear | No":
        weight = unshared(model, node.input(1))
        if isinstance(weight, No):
            return weight
        array = model.constant(weight)
        if array is None or not np.issubdtype(array.dtype, np.floating):
            return No("its weight is no float")
        layout = OPERATORS[node.op].slots[1](node, array.shape)
        if isinstance(layout, No):
            return layout
        if node.op == "MatMul":
            known = types.get(node.output)
            if known is None or known.shape is None or len(known.shape) != 2 or array.ndim != 2:
                return No("a product of more than matrices: channels are not the last axis")
        rows = layout.groups * layout.rows
        bias = node.input(2) if node.op != "MatMul" else None
        if bias is None:
            return _Linear(model, node, weight, layout, np.zeros(rows))
        given = model.constant(bias)
        if given is None or given.size not in (1, rows) or (given.ndim > 1 and given.shape[0] > 1):
            return No("its bias is computed, or not one number a channel")
        factor = node.attribute("beta", 1.0) if node.op == "Gemm" else 1.0
        flat = np.broadcast_to(given.reshape(-1).astype(np.float64) * factor, (rows,))
        return _Linear(model, node, weight, layout, flat)

    @property
    def matrix(self) -> Array:
        """[groups, rows, columns] in float64."""
        array = self.model.constant(self.weight)
        return self.layout.matrix(np.asarray(array, np.float64))

    def write(self, matrix: Array, bias: Array) -> bool:
        """Put new numbers in; False, and nothing done, if they do not fit the type."""
        old = self.model.constant(self.weight)
        if old is None:
            return False
        with np.errstate(over="ignore"):
            new, b = self.layout.restore(matrix).astype(old.dtype), bias.astype(old.dtype)
        if not (np.isfinite(new).all() and np.isfinite(b).all()):
            return False
        model, node = self.model, self.node
        model.set_constant(self.weight, np.ascontiguousarray(new))
        if node.op == "MatMul":
            added = model.add_constant(node.graph, b, f"{node.output.name}_bias")
            out = model.add_node(node.graph, "Add", [None, added], stem=f"{node.output.name}_out")
            model.replace_uses(node.output, out)
            made = out.producer
            if made is not None:
                model.set_input(made, 0, node.output)
            return True
        bias_value = model.add_constant(node.graph, b, f"{self.weight.name}_bias")
        unused = node.input(2)
        while len(node.inputs) < 3:
            node.inputs.append(None)
        model.set_input(node, 2, bias_value)
        if node.op == "Gemm" and node.attribute("beta", 1.0) != 1.0:
            model.set_attribute(node, "beta", None)
        remove_unused(model, [unused])
        return True


def fold_batchnorms(model: Model) -> Report:
    """Fold every BatchNormalization that has a linear neighbour, after it or before it."""
    types = infer(model)
    changes: list[Entry] = []
    skipped: list[Entry] = []
    for graph in list(model.graphs()):
        for node in list(graph.nodes):
            if node.op != "BatchNormalization" or node not in graph.nodes:
                continue
            scale = _scale_and_shift(model, node)
            if isinstance(scale, No):
                skipped.append(Entry(node.name, scale.reason))
                continue
            name = node.name
            after = _into_producer(model, node, scale, types)
            before = after and _into_consumer(model, node, scale, types)
            if not after or not before:
                changes.append(Entry(name, "folded into its neighbour"))
            else:
                skipped.append(Entry(name, f"{after}; {before}"))
    return Report(tuple(changes), tuple(skipped))


def _scale_and_shift(model: Model, node: Node) -> tuple[Array, Array] | No:
    if node.attribute("training_mode", 0) or any(v.is_used for v in node.outputs[1:] if v):
        return No("in training mode")
    if model.opset() < 7 and not node.attribute("is_test", 0):
        return No("in training mode")
    found = constant_inputs(model, node, 1, 2, 3, 4)
    if isinstance(found, No):
        return found
    if any(array.ndim != 1 for array in found):
        return No("it normalizes every place by itself")
    gamma, beta, mean, var = (array.astype(np.float64) for array in found)
    # the default is the float nearest to 1e-5, which is what runtimes add
    epsilon = float(np.float32(node.attribute("epsilon", 1e-5)))
    scale = gamma / np.sqrt(var + epsilon)
    return scale, beta - mean * scale


def _into_producer(
    model: Model, node: Node, numbers: tuple[Array, Array], types: dict[Value, TensorType]
) -> str:
    """Empty if done, else why not."""
    before = producer(node.inputs[0], *_LINEAR)
    if isinstance(before, No):
        return before.reason
    only = sole_consumer(before.output, "BatchNormalization")
    if isinstance(only, No):
        return f"{before.op} before it: {only.reason}"
    linear = _Linear.of(model, before, types)
    if isinstance(linear, No):
        return f"{before.op} before it: {linear.reason}"
    scale, shift = numbers
    layout = linear.layout
    matrix = linear.matrix * scale.reshape(layout.groups, layout.rows, 1)
    model_output = before.output
    if not linear.write(matrix, linear.bias * scale + shift):
        return f"{before.op} before it: the numbers leave the range of the type"
    source = node.inputs[0] if before.op == "MatMul" else model_output
    if source is None:
        return "its input is gone"
    model.replace_uses(node.output, source)
    remove_unused(model, node.outputs)
    return ""


def _into_consumer(
    model: Model, node: Node, numbers: tuple[Array, Array], types: dict[Value, TensorType]
) -> str:
    """Empty if done, else why not."""
    following = sole_consumer(node.output, "Conv", "Gemm", "MatMul")
    if isinstance(following, No):
        return following.reason
    if following.inputs[0] is not node.output or following.attribute("transA", 0):
        return f"{following.op} after it does not take it as rows"
    linear = _Linear.of(model, following, types)
    if isinstance(linear, No):
        return f"{following.op} after it: {linear.reason}"
    scale, shift = numbers
    if following.op == "Conv" and shift.any() and _pads(following):
        return "Conv after it pads with zeros, which it would have shifted"
    layout = linear.layout
    inputs = len(scale) // layout.groups if following.op == "Conv" else len(scale)
    if layout.columns % max(inputs, 1):
        return f"{following.op} after it: sizes do not fit"
    kernel = layout.columns // inputs
    factors, shifts = (
        np.repeat(array.reshape(-1, 1, inputs), kernel, axis=2) for array in (scale, shift)
    )
    matrix = linear.matrix
    alpha = following.attribute("alpha", 1.0) if following.op == "Gemm" else 1.0
    bias = linear.bias + alpha * (matrix * shifts).sum(axis=2).reshape(-1)
    if not linear.write(matrix * factors, bias):
        return f"{following.op} after it: the numbers leave the range of the type"
    source = node.inputs[0]
    if source is None:
        return "its input is gone"
    model.replace_uses(node.output, source)
    remove_unused(model, node.outputs)
    return ""


def _pads(node: Node) -> bool:
    automatic = node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return automatic or any(node.attribute("pads", ()))
