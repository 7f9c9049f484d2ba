"""The view over the protos: Value, Node and Graph, compared by identity.

Protos are values here: never mutated, only replaced, so a copy of the view shares all of them.
Each node keeps its own proto as payload, and with it everything that this library does not know.
Names of tensors are written in `Value.name` alone; protos get them when the model is exported.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    NodeProto,
    SparseTensorProto,
    TensorAnnotation,
    TensorProto,
    ValueInfoProto,
    helper,
)

from onnx_compress.ir.errors import InvalidError


class Value:
    """One tensor of the graph."""

    __slots__ = (
        "alive",
        "exits",
        "graph",
        "held",
        "info",
        "is_input",
        "name",
        "producer",
        "tensor",
        "uses",
    )

    def __init__(self, name: str, graph: "Graph") -> None:
        self.name, self.graph = name, graph
        self.producer: Node | None = None
        self.uses: dict[tuple[Node, int], None] = {}  # at any depth: a capture is an ordinary use
        self.exits: dict[Graph, int] = {}  # the graphs that give it out, and how often
        self.tensor: TensorProto | SparseTensorProto | None = None  # of an initializer
        self.info: ValueInfoProto | None = None
        self.is_input = False
        self.alive = True
        self.held = False  # an annotation or training_info refers to it

    @property
    def is_used(self) -> bool:
        """Whether anything reads it or refers to it, or any graph gives it out."""
        return bool(self.uses or self.exits or self.held)

    @property
    def consumers(self) -> list["Node"]:
        """The nodes that read it, each once, in the order in which the uses were made."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    def __repr__(self) -> str:
        return f"%{self.name}"


class Node:
    """One operator call."""

    __slots__ = ("bodies", "captures", "graph", "inputs", "outputs", "proto", "renamed")

    def __init__(self, proto: NodeProto, graph: "Graph") -> None:
        self.proto, self.graph = proto, graph
        self.renamed = False  # its name lists differ from the proto's
        self.inputs: list[Value | None] = []
        self.outputs: list[Value | None] = []
        self.bodies: list[tuple[str, Graph]] = []  # (attribute name, graph); the proto has a shell
        self.captures: dict[Value, int] = {}  # outer values that the bodies use, and how often

    @property
    def op(self) -> str:
        """Operator type; those of other domains carry their domain: com.microsoft.MatMulNBits."""
        domain = self.proto.domain
        return self.proto.op_type if domain in ("", "ai.onnx") else f"{domain}.{self.proto.op_type}"

    @property
    def name(self) -> str:
        """The node's name, or what identifies it if it has none."""
        return self.proto.name or next((v.name for v in self.outputs if v), self.op)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute; the default where it is absent or a function's parameter."""
        for attribute in self.proto.attribute:
            if attribute.name == name and not attribute.ref_attr_name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def input(self, slot: int) -> Value | None:
        """The value in a slot; None where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    @property
    def output(self) -> Value:
        """The first output."""
        if not self.outputs or self.outputs[0] is None:
            raise InvalidError("a node without a first output", where=self.name)
        return self.outputs[0]

    def __repr__(self) -> str:
        return f"{self.op}({self.inputs})->{self.outputs}"


class Graph:
    """Nodes, in the order of the file until sorted at export, and what goes in and out."""

    def __init__(self, proto: GraphProto | FunctionProto, owner: Node | None) -> None:
        self.proto, self.owner = proto, owner  # the proto is a shell: name, docs, metadata
        self.nodes: dict[Node, None] = {}
        self.initializers: dict[Value, None] = {}
        self.inputs: list[tuple[Value, ValueInfoProto | None]] = []
        self.outputs: list[tuple[Value, ValueInfoProto | None]] = []
        self.value_info: list[tuple[Value, ValueInfoProto]] = []
        self.annotations: list[tuple[Value, list[Value], TensorAnnotation]] = []

    def encloses(self, other: "Graph") -> bool:
        """Whether values of this graph can be seen from `other`."""
        graph: Graph | None = other
        while graph is not None:
            if graph is self:
                return True
            graph = graph.owner.graph if graph.owner else None
        return False

    def walk(self) -> Iterator["Graph"]:
        """This graph and all bodies in it, outer ones first."""
        todo = [self]
        while todo:
            graph = todo.pop(0)
            yield graph
            todo += [body for node in graph.nodes for _, body in node.bodies]

    def flow(self) -> list[Node]:
        """The nodes as the outputs need them, from the first one on; last what none needs.

        Whatever order the file has them in. Raises InvalidError on a cycle.
        """
        makers = [value.producer for value, _ in self.outputs]
        return self.sorted([node for node in makers if node is not None and node.graph is self])

    def sorted(self, first: Sequence[Node] = ()) -> list[Node]:
        """The nodes in their order, each producer pulled in front of its first consumer.

        `first`: some to begin with. Stable, iterative, linear in the edges. Raises InvalidError on
        a cycle.
        """
        done: dict[Node, bool] = {}
        order: list[Node] = []
        for root in (*first, *self.nodes):
            stack = [root]
            while stack:
                node = stack[-1]
                if done.get(node) is not None:
                    stack.pop()
                    if not done[node]:
                        done[node] = True
                        order.append(node)
                    continue
                done[node] = False
                for value in (*reversed(node.captures), *reversed(node.inputs)):
                    before = value.producer if value is not None else None
                    if before is None or before.graph is not self or done.get(before):
                        continue
                    if before in done:
                        hint = "no order of its nodes works: the file is damaged"
                        raise InvalidError("the graph has a cycle", hint, before.name)
                    stack.append(before)
        return order


def has_body(attribute: AttributeProto) -> bool:
    """Whether an attribute holds graphs."""
    kind = attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return kind and not attribute.ref_attr_name
