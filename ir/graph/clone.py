"""A copy of a model that shares every proto and every weight with it: cheap enough to roll back."""

from onnx import ModelProto

from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node, Value


def clone(model: Model) -> Model:
    """An independent copy. Takes time in proportion to nodes and edges, none for weights."""
    copy = Model.__new__(Model)
    copy.storage, copy.names, copy.edits = model.storage, set(model.names), model.edits
    copy.listed = model.listed
    copy._fresh, copy._reserved = dict(model._fresh), set(model._reserved)
    copy.shell = ModelProto()
    copy.shell.CopyFrom(model.shell)
    cloner = _Cloner()
    copy.graph = cloner.graph(model.graph, None)
    copy.functions = [cloner.graph(function, None) for function in model.functions]
    cloner.edges()
    return copy


class _Cloner:
    def __init__(self) -> None:
        self.graphs: dict[Graph, Graph] = {}
        self.nodes: dict[Node, Node] = {}
        self.values: dict[Value, Value] = {}

    def graph(self, old: Graph, owner: Node | None) -> Graph:
        new = self.graphs[old] = Graph(old.proto, owner)
        for node in old.nodes:
            made = self.nodes[node] = Node(node.proto, new)
            made.renamed = node.renamed
            new.nodes[made] = None
            made.bodies = [(name, self.graph(body, made)) for name, body in node.bodies]
        return new

    def value(self, old: Value) -> Value:
        new = self.values.get(old)
        if new is None:
            new = self.values[old] = Value(old.name, self.graphs[old.graph])
            new.tensor, new.info = old.tensor, old.info
            new.is_input, new.alive, new.held = old.is_input, old.alive, old.held
            if old.producer is not None:
                new.producer = self.nodes[old.producer]
            new.uses = {(self.nodes[node], slot): None for node, slot in old.uses}
            new.exits = {self.graphs[graph]: count for graph, count in old.exits.items()}
        return new

    def edges(self) -> None:
        value = self.value
        for old, node in self.nodes.items():
            node.inputs = [value(v) if v is not None else None for v in old.inputs]
            node.outputs = [value(v) if v is not None else None for v in old.outputs]
            node.captures = {value(v): count for v, count in old.captures.items()}
        for before, after in self.graphs.items():
            after.initializers = {value(v): None for v in before.initializers}
            after.inputs = [(value(v), info) for v, info in before.inputs]
            after.outputs = [(value(v), info) for v, info in before.outputs]
            after.value_info = [(value(v), info) for v, info in before.value_info]
            after.annotations = [
                (value(v), [value(p) for p in parameters], annotation)
                for v, parameters, annotation in before.annotations
            ]
