"""The nodes that a runtime computes once, at load: all their inputs are constant."""

from collections.abc import Iterable

from onnx_compress.ir.graph.document import Document
from onnx_compress.ir.graph.view import Graph, Node, Value

RANDOM = frozenset(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial".split()
)


def fixed_nodes(model: Document, graphs: Iterable[Graph]) -> set[Node]:
    """Those of these graphs, outer ones given first."""
    found: set[Node] = set()
    for graph in graphs:
        for node in graph.sorted():
            if node.op in RANDOM or node.bodies:
                continue
            sources = [value for value in node.inputs if value is not None]
            if node.op == "Constant" or (
                sources and all(_is_fixed(model, value, found) for value in sources)
            ):
                found.add(node)
    return found


def _is_fixed(model: Document, value: Value, found: set[Node]) -> bool:
    return model.tensor(value) is not None or value.producer in found
