"""Subgraphs, written as expressions.

b = Builder(model, graph, stem="w", like=node)
y = b("Mul", b("Cast", codes, to=FLOAT), b.constant(scale, "scale"))
"""

from typing import Any

from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node, Value


class Builder:
    """Adds nodes to one graph; names start with `stem`.

    The first one takes over documentation and metadata from `like`: exporters write a page of them
    for each node, and many nodes may come of one.
    """

    def __init__(self, model: Model, graph: Graph, stem: str, like: Node | None = None) -> None:
        self.model, self.graph, self.stem, self.like = model, graph, stem, like

    def __call__(
        self, op: str, *inputs: Value | None, name: str = "", domain: str = "", **attributes: Any
    ) -> Value:
        """Add a node; gives its first output."""
        like, self.like = self.like, None
        return self.model.add_node(
            self.graph,
            op,
            inputs,
            name=name,
            domain=domain,
            stem=f"{self.stem}.{op[0].lower()}",
            like=like,
            **attributes,
        )

    def constant(self, array: Array, suffix: str) -> Value:
        """Add an initializer to this graph."""
        return self.model.add_constant(self.graph, array, f"{self.stem}.{suffix}")

    def more_outputs(self, value: Value, count: int) -> list[Value]:
        """Further outputs for the node that makes `value`; gives all of them."""
        node = value.producer
        if node is None:
            raise ValueError(f"{value} is not made by a node")
        for _ in range(count - len(node.outputs)):
            self.model.add_output(node, value.name)
        return [output for output in node.outputs if output is not None]
