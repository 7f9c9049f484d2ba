"""View to proto, and proto to bytes.

`skeleton` is a complete ModelProto in which large tensors are shells. It is small whatever the
model's size, and it is what shape inference sees; `pieces` turns it into the bytes of a file.
"""

from collections.abc import Iterator

from onnx import FunctionProto, GraphProto, ModelProto, SparseTensorProto, ValueInfoProto

from onnx_compress.ir.graph.storage import MARKER, Storage
from onnx_compress.ir.graph.view import Graph, Node, Value
from onnx_compress.ir.graph.wire import Blob, Piece, splice


def skeleton(shell: ModelProto, graph: Graph, functions: list[Graph]) -> ModelProto:
    """The whole model with the data of large tensors left out."""
    out = ModelProto()
    out.CopyFrom(shell)
    out.graph.SetInParent()
    _graph(graph, out.graph)
    for function in functions:
        add_function(function, out)
    return out


def pieces(skeleton: ModelProto) -> list[Piece]:
    """The bytes of a single file, weights by reference."""
    return splice(skeleton.SerializeToString(deterministic=True), MARKER)


def chunks(parts: list[Piece], storage: Storage) -> Iterator[memoryview]:
    """The bytes of pieces, weights read a bounded piece at a time."""
    for part in parts:
        if isinstance(part, Blob):
            yield from (data.data for data in storage.stream(part))
        else:
            yield memoryview(part)


def add_node(node: Node, out: GraphProto | FunctionProto) -> None:
    """Append a node, bodies and all."""
    proto = out.node.add()
    proto.CopyFrom(node.proto)
    if node.renamed:
        del proto.input[:], proto.output[:]
        proto.input.extend([v.name if v else "" for v in node.inputs])
        proto.output.extend([v.name if v else "" for v in node.outputs])
    if node.bodies:
        _bodies(node, {attribute.name: attribute for attribute in proto.attribute})


def _bodies(node: Node, attributes: dict[str, object]) -> None:
    for name, body in node.bodies:
        attribute = attributes[name]
        single = attribute.type == attribute.GRAPH  # type: ignore[attr-defined]
        _graph(body, attribute.g if single else attribute.graphs.add())  # type: ignore[attr-defined]


def add_function(function: Graph, model: ModelProto) -> None:
    """Append a function."""
    out = model.functions.add()
    out.CopyFrom(function.proto)
    for node in function.sorted():
        add_node(node, out)
    out.input.extend([value.name for value, _ in function.inputs])
    out.output.extend([value.name for value, _ in function.outputs])
    for value, info in function.value_info:
        if value.alive:
            _named(out.value_info.add(), info, value.name)


def _graph(graph: Graph, out: GraphProto) -> None:
    out.CopyFrom(graph.proto)
    for node in graph.sorted():
        add_node(node, out)
    for value in graph.initializers:
        add_initializer(value, out)
    for field, entries in ((out.input, graph.inputs), (out.output, graph.outputs)):
        for value, known in entries:
            _named(field.add(), known or value.info, value.name)
    for value, info in graph.value_info:
        if value.alive:
            _named(out.value_info.add(), info, value.name)
    for value, parameters, annotation in graph.annotations:
        if value.alive and all(parameter.alive for parameter in parameters):
            new = out.quantization_annotation.add()
            new.CopyFrom(annotation)
            new.tensor_name = value.name
            for entry, parameter in zip(new.quant_parameter_tensor_names, parameters, strict=True):
                entry.value = parameter.name


def add_initializer(value: Value, out: GraphProto) -> None:
    """Append the stored tensor of a value."""
    if isinstance(value.tensor, SparseTensorProto):
        sparse = out.sparse_initializer.add()
        sparse.CopyFrom(value.tensor)
        sparse.values.name = value.name
    elif value.tensor is not None:
        tensor = out.initializer.add()
        tensor.CopyFrom(value.tensor)
        tensor.name = value.name


def _named(out: ValueInfoProto, info: ValueInfoProto | None, name: str) -> None:
    if info is not None:
        out.CopyFrom(info)
    out.name = name
