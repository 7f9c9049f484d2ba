"""Types and shapes of values, by ONNX's own inference over the skeleton of a model.

What a file declares of its inner values is often wrong (exporters leave stale value_info), so it
is not read: only inputs, weights and operators count. What cannot be inferred is left out.
"""

from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, TypeProto, ValueInfoProto

from onnx_compress.ir.graph.elements import dims, element_type
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Value

_FOLLOWED = frozenset(
    "Add Cast Concat ConstantOfShape Expand Gather Identity Mul Range Shape Size Slice Squeeze Sub "
    "Tile Unsqueeze".split()
)  # operators whose results, not only shapes, inference computes
_LONGEST = 1024  # numbers of such a result; shapes are shorter
Dim = int | str | None  # a size, a name, or unknown


@dataclass(frozen=True)
class TensorType:
    """Element type (TensorProto.DataType) and shape; None where the rank is unknown."""

    element: int
    shape: tuple[Dim, ...] | None

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape if every dimension is known."""
        if self.shape is None or not all(isinstance(dim, int) for dim in self.shape):
            return None
        return tuple(dim for dim in self.shape if isinstance(dim, int))


def declared(info: ValueInfoProto | None) -> TensorType | None:
    """What a ValueInfo says; None for other things than tensors."""
    if info is None or info.type.WhichOneof("value") != "tensor_type":
        return None
    return _tensor_type(info.type)


def _tensor_type(kind: TypeProto) -> TensorType:
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    shape: list[Dim] = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        shape.append(int(dim.dim_value) if which == "dim_value" else dim.dim_param or None)
    return TensorType(tensor.elem_type, tuple(shape))


def infer(model: Model, given: dict[str, tuple[int, ...]] | None = None) -> dict[Value, TensorType]:
    """Types of all values that can be inferred, weights and inputs among them.

    `given` fixes the shapes of inputs by name, to see the sizes of one run.
    """
    proto = model.skeleton()
    todo = [proto.graph]
    while todo:
        graph = todo.pop()
        del graph.value_info[:]
        if graph is not proto.graph:
            for output in graph.output:
                output.ClearField("type")
        todo += _bodies(graph)
    for info in proto.graph.input:
        if given and info.name in given and info.type.WhichOneof("value") == "tensor_type":
            shape = info.type.tensor_type.shape
            shape.ClearField("dim")
            for size in given[info.name]:
                shape.dim.add(dim_value=size)
    for info in proto.graph.output:  # exporters declare wrong ones; only the element type is kept
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.ClearField("shape")
    inferred = _inferred(proto, data=False)
    # functions are inlined by inference, so what they build cannot be told in advance
    if not proto.functions and _small_numbers(inferred):
        inferred = _inferred(proto, data=True)
    found: dict[Graph, dict[str, TensorType]] = {}
    _collect(inferred.graph, model.graph, found)
    types: dict[Value, TensorType] = {}
    for view, named in found.items():
        values = [value for value, _ in view.inputs] + list(view.initializers)
        values += [v for node in view.nodes for v in node.outputs if v is not None]
        for value in values:
            tensor = value.tensor or model.tensor(value)
            if tensor is not None:
                types[value] = TensorType(element_type(tensor), dims(tensor))
            elif value.name in named:
                types[value] = named[value.name]
    return types


def _inferred(proto: ModelProto, data: bool) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=data)
    except Exception:  # the C++ side raises several kinds; what was known stays known
        return proto


def _small_numbers(proto: ModelProto) -> bool:
    """Whether lists whose numbers inference follows are short: it holds all of them."""
    for graph in _walk(proto.graph):
        followed = {
            name for node in graph.node if node.op_type in _FOLLOWED for name in node.output
        }
        for info in graph.value_info:
            known = declared(info) if info.name in followed else None
            if known is not None and known.shape and len(known.shape) == 1:
                (length,) = known.shape
                if isinstance(length, int) and length > _LONGEST:
                    return False
    return True


def _walk(graph: GraphProto) -> list[GraphProto]:
    return [graph, *(inner for body in _bodies(graph) for inner in _walk(body))]


def _collect(graph: GraphProto, view: Graph, found: dict[Graph, dict[str, TensorType]]) -> None:
    """Types by graph: bodies may use the same names for other things."""
    named = found[view] = {}
    for info in (*graph.output, *graph.value_info, *graph.input):
        known = declared(info)
        if known is not None:
            named[info.name] = known
    views = [body for node in view.sorted() for _, body in node.bodies]
    for body, inner in zip(_bodies(graph), views, strict=True):
        _collect(body, inner, found)


def _bodies(graph: GraphProto) -> list[GraphProto]:
    return [
        body
        for node in graph.node
        for attribute in node.attribute
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
    ]
