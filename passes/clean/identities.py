"""Nodes that do nothing:  Identity(x)  ->  x,  Transpose(Transpose(x))  ->  x or one Transpose."""

from collections.abc import Callable

from onnx_compress.ir.graph import Model, Node
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.inference import TensorType, infer
from onnx_compress.ir.graph.patterns import No, producer
from onnx_compress.ir.graph.view import Value
from onnx_compress.passes.base import Entry, Report

Types = dict[Value, TensorType]
Nothing = Callable[[Model, Node, Types], bool]


def _identity(_: Model, __: Node, ___: Types) -> bool:
    return True


def _dropout(model: Model, node: Node, _: Types) -> bool:
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is not None and mask.is_used:
        return False
    if model.opset() < 7:
        return bool(node.attribute("is_test", 0))
    training = node.input(2)
    if training is None:
        return True
    given = model.constant(training)
    return given is not None and not given.any()


def _cast(_: Model, node: Node, types: Types) -> bool:
    known = types.get(node.inputs[0]) if node.inputs[0] is not None else None
    return known is not None and known.element == node.attribute("to")


def _transpose(_: Model, node: Node, __: Types) -> bool:
    perm = node.attribute("perm")
    return perm is not None and list(perm) == list(range(len(perm)))


def _same_shape(_: Model, node: Node, types: Types) -> bool:
    source = types.get(node.inputs[0]) if node.inputs[0] is not None else None
    result = types.get(node.output)
    if source is None or result is None or source.shape is None:
        return False
    return source.shape == result.shape and None not in source.shape and "?" not in source.shape


NOTHING: dict[str, Nothing] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _same_shape,
    "Expand": _same_shape,
    "Flatten": _same_shape,
}


def remove_identities(model: Model) -> Report:
    """Let the readers of such nodes read what the nodes read."""
    types = infer(model)
    changes: list[Entry] = []
    skipped: list[Entry] = []
    for graph in list(model.graphs()):
        for node in list(graph.nodes):
            nothing = NOTHING.get(node.op)
            if nothing is None or not node.inputs or node.inputs[0] is None:
                continue
            if _join_transposes(model, node):
                changes.append(Entry(node.name, "two Transposes are one"))
            if not nothing(model, node, types):
                continue
            reason = _needed(model, node, node.inputs[0])
            if reason:
                skipped.append(Entry(node.name, reason))
                continue
            changes.append(Entry(node.name, f"{node.op} does nothing"))
            model.replace_uses(node.output, node.inputs[0])
            remove_unused(model, node.outputs)
    return Report(tuple(changes), tuple(skipped))


def _needed(model: Model, node: Node, source: Value) -> str:
    """Why the node must stay although it does nothing: its output is given out by a graph."""
    if not node.output.exits:
        return ""
    if source.producer is None or source.graph is not node.graph:
        return "stands between an input, a constant or an outer value and an output"
    if node.graph is model.graph and any(user.graph is not model.graph for user, _ in source.uses):
        return "stands between a value that bodies read and an output"
    return "stands between two outputs" if source.exits else ""


def _join_transposes(model: Model, node: Node) -> bool:
    """Transpose(Transpose(x, p), q)  ->  Transpose(x, p[q])"""
    before = producer(node.inputs[0], "Transpose")
    if node.op != "Transpose" or isinstance(before, No) or before.graph is not node.graph:
        return False
    p, q = before.attribute("perm"), node.attribute("perm")
    if p is None or q is None:
        return False
    model.set_attribute(node, "perm", [p[axis] for axis in q])
    model.set_input(node, 0, before.inputs[0])
    remove_unused(model, before.outputs)
    return True
