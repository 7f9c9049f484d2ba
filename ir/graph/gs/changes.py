"""What a script of graphsurgeon changed."""

from dataclasses import dataclass

from onnx_compress.ir.graph.gs.graphs import GraphWriter
from onnx_compress.ir.graph.gs.match import Match
from onnx_compress.ir.graph.model import Model


@dataclass(frozen=True)
class Changes:
    """Names of nodes and weights; `any`: whether anything is written otherwise than before.

    `unread`: inputs with a default value that were read, and are read by nothing now.
    """

    any: bool
    nodes_added: tuple[str, ...] = ()
    nodes_removed: tuple[str, ...] = ()
    nodes_changed: tuple[str, ...] = ()
    weights_added: tuple[str, ...] = ()
    weights_removed: tuple[str, ...] = ()
    weights_replaced: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def compare(before: Model, after: Model, match: Match, writer: GraphWriter) -> Changes:
    """What is different."""
    old, new = (m.skeleton().SerializeToString(deterministic=True) for m in (before, after))
    if old == new:
        return Changes(False)
    roots = [before.graph, *(f for f in before.functions if f not in match.restored)]
    graphs = [graph for root in roots for graph in root.walk()]
    weights = [value for graph in graphs for value in graph.initializers]
    nodes = [node for graph in graphs for node in graph.nodes]
    return Changes(
        True,
        tuple(writer.added),
        tuple(node.name for node in nodes if node not in match.taken),
        tuple(writer.changed),
        tuple(writer.new_weights),
        tuple(value.name for value in weights if value not in writer.weights),
        tuple(
            match.names[value]
            for value, tensor in writer.weights.items()
            if tensor is not value.tensor
        ),
        tuple(writer.unread),
    )
