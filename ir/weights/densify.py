"""Densify: the way back from nodes that put numbers among zeros to the tensor that they make.

Reshape(Gather([0, values], CumSum(bits) bits))          bits of one byte for eight places
Reshape(ScatterElements(zeros, CumSum(gaps), values))    gaps from each number to the next

Such a tensor is computed from constants alone, so a runtime folds it when it loads the model. The
way there is `forms/sparse`.
"""

from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.folded import Folded
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value


def is_sparse(model: Model, value: Value | None) -> bool:
    """Whether a value is a weight stored without its zeros."""
    return value is not None and _summed_up(value) and Folded(model).is_constant(value)


def densify(model: Model) -> list[Value]:
    """Store such weights plainly, under the names they had; gives them."""
    found = [
        value
        for graph in model.graphs()
        for node in list(graph.nodes)
        for value in node.outputs
        if node.op == "Reshape" and value is not None and is_sparse(model, value)
    ]
    made = []
    for value in found:
        array = Folded(model).array(value)
        if array is None or value.producer is None or value.exits:
            continue
        plain = model.add_constant(value.graph, array, f"{value.name}_plain")
        model.replace_uses(value, plain)
        remove_unused(model, [value])
        if not model.shell.training_info:
            model.take_name(plain, value)
        made.append(plain)
    return made


def puts(node: Node) -> bool:
    """Whether a node puts numbers at places that are summed up from bits or gaps."""
    if node.op not in ("Gather", "ScatterElements") or node.input(1) is None:
        return False
    places = node.inputs[1].producer if node.inputs[1] is not None else None
    if places is not None and places.op == "Mul":
        places = _before(places)
    return places is not None and places.op == "CumSum"


def _summed_up(value: Value) -> bool:
    node = value.producer
    put = _before(node) if node is not None and node.op == "Reshape" else None
    return put is not None and puts(put)


def _before(node: Node) -> Node | None:
    """What makes the first input of a node."""
    first = node.input(0)
    return None if first is None else first.producer
