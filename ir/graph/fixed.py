"""The nodes that a runtime computes once, at load: all their inputs are constant."""

from collections.abc import Iterable

from onnx_compress.ir.graph.document import Document
from onnx_compress.ir.graph.view import Graph, Node, Value

# Dropout only in training, but nothing is computed by it from constants otherwise
RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform "
    "RandomUniformLike".split()
)


def fixed_nodes(model: Document, graphs: Iterable[Graph]) -> set[Node]:
    """Those of these graphs, outer ones given first."""
    found: set[Node] = set()
    functions = {(f.proto.domain, f.proto.name) for f in model.functions}  # may be random inside
    for graph in graphs:
        for node in graph.sorted():
            called = (node.proto.domain, node.proto.op_type) in functions
            if node.op in RANDOM or node.bodies or called:
                continue
            sources = [value for value in node.inputs if value is not None]
            if node.op == "Constant" or (
                sources and all(_is_fixed(model, value, found) for value in sources)
            ):
                found.add(node)
    return found


def _is_fixed(model: Document, value: Value, found: set[Node]) -> bool:
    return model.tensor(value) is not None or value.producer in found
