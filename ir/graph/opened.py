"""Opened: operands that are stored become inputs, so that one session runs with any numbers there.

MatMul(x, W)   ->   MatMul(x, w)        w a new input of the model
"""

from collections.abc import Sequence

from onnx import ValueInfoProto

from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.elements import Array, element_of
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Node, Value

Place = tuple[Node, int]


def opened(
    model: Model, places: Sequence[Place], arrays: Sequence[Array]
) -> tuple[Model, list[str]]:
    """A copy in which a node's operand is an input, for each place, and the names of these.

    `arrays`: such as will be given; shapes and types are taken from them.
    """
    copy = clone(model)
    graphs = zip(model.graphs(), copy.graphs(), strict=True)
    twins = {a: b for one, other in graphs for a, b in zip(one.nodes, other.nodes, strict=True)}
    names = []
    for (node, slot), array in zip(places, arrays, strict=True):
        value = Value(copy.fresh("opened"), copy.graph)
        value.is_input = True
        copy.graph.inputs.append((value, _info(value.name, array)))
        copy.set_input(twins[node], slot, value)
        names.append(value.name)
    return copy, names


def _info(name: str, array: Array) -> ValueInfoProto:
    info = ValueInfoProto(name=name)
    kind = info.type.tensor_type
    kind.elem_type = element_of(array.dtype)
    kind.shape.SetInParent()
    for size in array.shape:
        kind.shape.dim.add(dim_value=size)
    return info
