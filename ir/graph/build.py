"""Proto to view.

Captures: a name means the innermost value of that name; a value of an outer graph used in a body
is an ordinary use of the outer value, and the nodes around the body count it.
"""

from pathlib import Path
from typing import Protocol

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

from onnx_compress.ir.errors import InvalidError, LoadError
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.storage import Storage
from onnx_compress.ir.graph.view import Graph, Node, Value, has_body

_BUILT = {
    "node",
    "initializer",
    "sparse_initializer",
    "input",
    "output",
    "value_info",
    "quantization_annotation",
}
_UNIQUE = "names must be unique: the file is damaged, or its exporter has a bug"
_DEEPEST = 64  # bodies in bodies; ONNX Runtime gives up earlier


class Builder:
    """Builds the graphs of one model."""

    def __init__(self, storage: Storage, folder: Path | None, names: set[str]) -> None:
        self.storage, self.folder, self.names = storage, folder, names

    def graph(
        self,
        proto: GraphProto | FunctionProto,
        owner: Node | None = None,
        scope: dict[str, Value] | None = None,
        depth: int = 0,
    ) -> Graph:
        """The view of one graph and everything in it. Raises InvalidError, LoadError."""
        if depth > _DEEPEST:
            raise InvalidError(f"bodies nested deeper than {_DEEPEST}", "no real model does this")
        graph = Graph(without(proto, _BUILT), owner)
        here: dict[str, Value] = {}
        outer = scope or {}

        def own(name: str) -> Value:
            if isinstance(name, bytes):  # what protobuf gives for text that is not UTF-8
                raise InvalidError("a name that is not UTF-8", "the file is damaged", repr(name))
            if name not in here:
                here[name] = Value(name, graph)
                self.names.add(name)
            return here[name]

        def find(name: str) -> Value:
            return here.get(name) or outer.get(name) or own(name)

        if isinstance(proto, GraphProto):
            self._initializers(graph, proto, own)
            for info in proto.input:
                graph.inputs.append((own(info.name), info))
        else:
            graph.inputs += [(own(name), None) for name in proto.input]
        for value, _ in graph.inputs:
            if value.is_input:
                raise InvalidError("two inputs of one name", _UNIQUE, value.name)
            value.is_input = True
        nodes = [self._node(graph, node, own) for node in proto.node]
        if isinstance(proto, GraphProto):
            graph.outputs += [(find(info.name), info) for info in proto.output]
            graph.annotations += [
                (find(a.tensor_name), [find(e.value) for e in a.quant_parameter_tensor_names], a)
                for a in proto.quantization_annotation
            ]
            for _, parameters, _ in graph.annotations:
                for parameter in parameters:
                    parameter.held = True
        else:
            graph.outputs += [(find(name), None) for name in proto.output]
        for value, _ in graph.outputs:
            add_exit(value, graph)
        graph.value_info += [(find(info.name), info) for info in proto.value_info]
        for value, known in (*graph.value_info, *graph.inputs, *graph.outputs):
            if known is not None:
                value.info = known
        for node, source in zip(nodes, proto.node, strict=True):
            for name in source.input:
                read = find(name) if name else None
                node.inputs.append(read)
                if read is not None:
                    add_use(read, node, len(node.inputs) - 1)
        for node, source in zip(nodes, proto.node, strict=True):
            if any(has_body(attribute) for attribute in source.attribute):
                self._bodies(node, source, {**outer, **here}, depth)
        return graph

    def _initializers(self, graph: Graph, proto: GraphProto, own: "_Own") -> None:
        for tensor in proto.initializer:
            value = own(tensor.name)
            if value in graph.initializers:
                raise InvalidError("two initializers of one name", _UNIQUE, tensor.name)
            value.tensor = self.storage.adopt(tensor, self.folder) or tensor
            graph.initializers[value] = None
        for sparse in proto.sparse_initializer:
            _inline(sparse)
            value = own(sparse.values.name)
            if value in graph.initializers:
                raise InvalidError("two initializers of one name", _UNIQUE, value.name)
            value.tensor = sparse
            graph.initializers[value] = None

    def _node(self, graph: Graph, proto: NodeProto, own: "_Own") -> Node:
        node = Node(self._housed(proto), graph)
        graph.nodes[node] = None
        for name in proto.output:
            value = own(name) if name else None
            node.outputs.append(value)
            if value is None:
                continue
            if value.producer is not None or value.is_input or value.tensor is not None:
                raise InvalidError("two values of one name", _UNIQUE, name)
            value.producer = node
        return node

    def _housed(self, proto: NodeProto) -> NodeProto:
        """The proto itself, or a copy in which large tensors are shells and bodies are empty."""
        kinds = AttributeProto
        tensors = (kinds.TENSOR, kinds.TENSORS, kinds.SPARSE_TENSOR)
        if not any(has_body(a) or a.type in tensors for a in proto.attribute):
            return proto
        out = without(proto, {"attribute"})
        for attribute in proto.attribute:
            if has_body(attribute):
                out.attribute.append(without(attribute, {"g", "graphs"}))
                continue
            new = without(attribute, {"t", "tensors"})
            if attribute.HasField("t"):
                new.t.CopyFrom(self._adopt(attribute.t))
            if attribute.HasField("sparse_tensor"):
                _inline(attribute.sparse_tensor)
            new.tensors.extend(self._adopt(tensor) for tensor in attribute.tensors)
            out.attribute.append(new)
        return out

    def _adopt(self, tensor: TensorProto) -> TensorProto:
        return self.storage.adopt(tensor, self.folder) or tensor

    def _bodies(self, node: Node, proto: NodeProto, scope: dict[str, Value], depth: int) -> None:
        for attribute in proto.attribute:
            if has_body(attribute):
                single = attribute.type == AttributeProto.GRAPH
                for body in [attribute.g] if single else attribute.graphs:
                    node.bodies.append((attribute.name, self.graph(body, node, scope, depth + 1)))


def _inline(sparse: SparseTensorProto) -> None:
    for part in (sparse.values, sparse.indices):
        if part.data_location == TensorProto.EXTERNAL:
            hint = "no known exporter writes them; store the tensor densely"
            raise LoadError("a sparse tensor with external data", hint, sparse.values.name)


def add_use(value: Value, node: Node, slot: int) -> None:
    """Register that a node reads a value, also with the nodes around it if it is a capture."""
    value.uses[node, slot] = None
    _count(value, node.graph, 1)


def drop_use(value: Value, node: Node, slot: int) -> None:
    """Inverse of `add_use`."""
    del value.uses[node, slot]
    _count(value, node.graph, -1)


def add_exit(value: Value, graph: Graph) -> None:
    """Register that a graph gives a value out; a body may give out an outer one."""
    value.exits[graph] = value.exits.get(graph, 0) + 1
    _count(value, graph, 1)


def drop_exit(value: Value, graph: Graph) -> None:
    """Inverse of `add_exit`."""
    value.exits[graph] -= 1
    if not value.exits[graph]:
        del value.exits[graph]
    _count(value, graph, -1)


def _count(value: Value, graph: Graph, change: int) -> None:
    while graph is not value.graph and graph.owner is not None:
        captures = graph.owner.captures
        captures[value] = captures.get(value, 0) + change
        if not captures[value]:
            del captures[value]
        graph = graph.owner.graph


class _Own(Protocol):
    """Type of the function that gives a graph's own value of a name."""

    def __call__(self, name: str) -> Value: ...
