"""What mutations share: a copy to work on, names that are free, weights to write differently."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Rng = np.random.Generator
Mutation = Callable[[ModelProto, Rng], ModelProto | None]
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def copy(model: ModelProto) -> ModelProto:
    """One that may be changed."""
    out = ModelProto()
    out.CopyFrom(model)
    return out


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all bodies in it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs that a node holds."""
    found = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found + [graph for attribute in node.attribute for graph in attribute.graphs]


class Names:
    """Names that nothing in the model has."""

    def __init__(self, model: ModelProto) -> None:
        self._taken = {
            name
            for graph in graphs(model.graph)
            for node in graph.node
            for name in (*node.input, *node.output, node.name)
        }
        for graph in graphs(model.graph):
            entries = (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
            self._taken |= {entry.name for entry in entries}

    def fresh(self, stem: str) -> str:
        """A new one."""
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def weights(model: ModelProto) -> list[TensorProto]:
    """Stored floats of the main graph, of more than one number, that are no input."""
    inputs = {info.name for info in model.graph.input}
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type in FLOATS
        and tensor.name not in inputs
        and int(np.prod(tensor.dims, dtype=np.int64)) > 1
    ]


def some(items: list[Any], rng: Rng) -> list[Any]:
    """At least one of them, if there are any."""
    if not items:
        return []
    chosen = [item for item in items if rng.random() < 0.7]
    return chosen or [items[int(rng.integers(len(items)))]]


def readers(model: ModelProto, name: str) -> list[tuple[NodeProto, int]]:
    """Who reads a value, at any depth, and in which slot."""
    return [
        (node, slot)
        for graph in graphs(model.graph)
        for node in graph.node
        for slot, read in enumerate(node.input)
        if read == name
    ]


def reread(model: ModelProto, old: str, new: str) -> None:
    """Let everything that reads `old` read `new`."""
    for node, slot in readers(model, old):
        node.input[slot] = new


def insert(model: ModelProto, node: NodeProto, at: int = 0) -> None:
    """Put a node into the main graph."""
    nodes = list(model.graph.node)
    nodes.insert(at, node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def taken_out(model: ModelProto, names: set[str]) -> None:
    """Remove initializers."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
