"""What nothing reads:  nodes, initializers."""

from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.passes.base import Entry, Report


def remove_dead(model: Model) -> Report:
    """Take out nodes none of whose outputs are used, and initializers that nothing reads."""
    changes: list[Entry] = []
    for graph in list(model.graphs()):
        for value in list(graph.initializers):
            name = value.name
            if not value.is_used and remove_unused(model, [value]):
                changes.append(Entry(name, "unused initializer removed"))
        for node in reversed(list(graph.nodes)):
            if node in graph.nodes and not any(v.is_used for v in node.outputs if v is not None):
                if not any(v is not None for v in node.outputs):
                    continue  # a node without outputs may act by itself
                name, count = node.name, remove_unused(model, node.outputs)
                changes.append(Entry(name, f"unused, removed with what only it used ({count})"))
    return Report(tuple(changes))
