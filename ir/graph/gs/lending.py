"""View to gs: a gs.Graph as its own importer would make it, and what each of its objects came from.

Not dropped, unlike there: attributes of all kinds. Unlike there, too, a weight that stands in an
outer graph is one gs.Constant wherever it is used.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from onnx import AttributeProto, OperatorSetIdProto
from onnx_graphsurgeon import Constant, Function, Variable
from onnx_graphsurgeon import Graph as GsGraph
from onnx_graphsurgeon import Node as GsNode

from onnx_compress.ir.graph.document import DEFAULT_DOMAINS
from onnx_compress.ir.graph.gs import types as gs_types
from onnx_compress.ir.graph.gs.attributes import read
from onnx_compress.ir.graph.gs.stored import stored
from onnx_compress.ir.graph.gs.types import Type
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node, Value, has_body

T = TypeVar("T")
_NUMBERED = re.compile(r"_(\d{1,9})$")
_APART = 100_000  # names that a script may let gs invent in one graph


@dataclass
class Origins:
    """What gs objects came from, by identity: they compare by content. Keeps them alive."""

    tensors: dict[int, tuple[Any, Value]] = field(default_factory=dict)
    nodes: dict[int, tuple[Any, Node]] = field(default_factory=dict)
    graphs: dict[int, tuple[Any, Graph]] = field(default_factory=dict)
    types: dict[Value, Type] = field(default_factory=dict)

    def value(self, tensor: Any) -> Value | None:
        """What a gs tensor came from."""
        return _origin(self.tensors, tensor)

    def node(self, node: Any) -> Node | None:
        """What a gs node came from."""
        return _origin(self.nodes, node)

    def graph(self, graph: Any) -> Graph | None:
        """What a gs graph or function came from."""
        return _origin(self.graphs, graph)


def _origin(known: dict[int, tuple[Any, T]], thing: Any) -> T | None:
    found = known.get(id(thing))
    return found[1] if found else None


def lend(model: Model) -> tuple[Any, Origins]:
    """A gs.Graph of a model, which reads weights from its storage."""
    lender = _Lender(model)
    return lender.main(), lender.origins


class _Lender:
    def __init__(self, model: Model) -> None:
        self.model, self.origins = model, Origins()
        self.made: dict[Value, Any] = {}

    def main(self) -> Any:
        shell = self.model.shell
        about = {
            "producer_name": shell.producer_name,
            "producer_version": shell.producer_version,
            "ir_version": shell.ir_version,
            "functions": [self.function(function) for function in self.model.functions],
        }
        lent = self.graph(self.model.graph, list(shell.opset_import), **about)
        self.number()
        return lent

    def number(self) -> None:
        """Let the names that gs invents be free in all graphs: it counts from 0 in each."""
        graphs = [g for g, _ in self.origins.graphs.values() if not isinstance(g, Function)]
        unread = any(not (v.uses or v.exits) for v in self.model.graph.initializers)
        if len(graphs) == 1 and not unread:
            return  # gs sees all names
        ends = [found[1] for name in self.model.names if (found := _NUMBERED.search(name))]
        first = max(map(int, ends), default=-1) + 1
        for place, graph in enumerate(reversed(graphs)):  # the main graph is the last one made
            graph.name_idx = first + place * _APART

    def graph(self, graph: Graph, imports: list[OperatorSetIdProto], **about: Any) -> Any:
        infos = {
            value: info
            for value, info in (*graph.outputs, *graph.inputs, *reversed(graph.value_info))
            if info is not None and info.type.ByteSize()
        }
        for value in own_values(graph):
            self.tensor(value, infos.get(value))
        lent = GsGraph(
            nodes=[self.node(node, imports) for node in graph.sorted()],
            inputs=[self.tensor(value) for value, _ in graph.inputs if value.tensor is None],
            outputs=[self.tensor(value) for value, _ in graph.outputs],
            name=graph.proto.name,
            doc_string=graph.proto.doc_string,
            opset=_opset(imports),
            import_domains=_copies(imports),
            **about,
        )
        self.origins.graphs[id(lent)] = lent, graph
        return lent

    def function(self, function: Graph) -> Any:
        proto: Any = function.proto
        imports = list(proto.opset_import) or list(self.model.shell.opset_import)
        lent = Function(
            proto.name,
            proto.domain,
            nodes=[self.node(node, imports) for node in function.sorted()],
            inputs=[self.tensor(value) for value, _ in function.inputs],
            outputs=[self.tensor(value) for value, _ in function.outputs],
            doc_string=proto.doc_string,
            opset=_opset(imports) or _opset(list(self.model.shell.opset_import)),
            import_domains=_copies(imports),
            attrs=self.parameters(function),
        )
        self.origins.graphs[id(lent)] = lent, function
        return lent

    def parameters(self, function: Graph) -> dict[str, Any]:
        """The attributes of a function and their defaults; None is none."""
        proto: Any = function.proto
        defaults = {a.name: read(a, self.model.storage) for a in proto.attribute_proto}
        return {**dict.fromkeys(proto.attribute), **defaults}

    def node(self, node: Node, imports: list[OperatorSetIdProto]) -> Any:
        attributes: dict[str, Any] = {}
        for attribute in node.proto.attribute:
            if has_body(attribute):
                bodies = [
                    self.graph(body, imports)
                    for name, body in node.bodies
                    if name == attribute.name
                ]
                single = attribute.type == AttributeProto.GRAPH
                attributes[attribute.name] = bodies[0] if single else bodies
            else:
                attributes[attribute.name] = read(attribute, self.model.storage)
        proto = node.proto
        lent = GsNode(
            proto.op_type,
            proto.name,
            attributes,
            [self.tensor(value) for value in node.inputs],
            [self.tensor(value) for value in node.outputs],
            proto.domain if proto.HasField("domain") else None,
        )
        self.origins.nodes[id(lent)] = lent, node
        return lent

    def tensor(self, value: Value | None, info: Any = None) -> Any:
        if value is None:
            return Variable.empty()
        if value not in self.made:
            if value.tensor is not None:
                made = Constant(value.name, stored(value.tensor, self.model.storage))
            else:
                made = gs_types.variable(value.name, info)
                made.name = value.name
            self.made[value] = made
            self.origins.tensors[id(made)] = made, value
            self.origins.types[value] = gs_types.of(made)
        return self.made[value]


def own_values(graph: Graph) -> Iterator[Value]:
    """The values of a graph itself, not those it captures."""
    yield from (value for value, _ in graph.inputs)
    yield from graph.initializers
    for node in graph.nodes:
        yield from (value for value in node.outputs if value is not None)


def _copies(imports: list[OperatorSetIdProto]) -> list[OperatorSetIdProto]:
    """gs appends to this list, and scripts write into it."""
    return [OperatorSetIdProto.FromString(entry.SerializeToString()) for entry in imports]


def _opset(imports: list[OperatorSetIdProto]) -> int | None:
    return next((entry.version for entry in imports if entry.domain in DEFAULT_DOMAINS), None)
