"""A model run front to back over samples, a few nodes at a time, so that it may be edited between.

    walk.reach(x)   runs what x needs and what was not run before
    walk.get(x, 3)  x of sample 3

What was computed stays; weights of nodes that were not reached yet may be changed.
"""

from collections.abc import Sequence
from typing import Any

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import Part, extract
from onnx_compress.ir.graph.view import Node, Value
from onnx_compress.ir.runtime.activations import Activations
from onnx_compress.ir.runtime.session import Feed, Session


class Walk:
    """One walk over the main graph of a model."""

    def __init__(self, model: Model, feeds: Sequence[Feed]) -> None:
        self.model, self._count = model, len(feeds)
        self._kept = Activations(feeds)
        self._done: set[Node] = set()
        self._held: set[Value] = set()

    def reach(self, value: Value) -> None:
        """Run what a value needs. Raises InvalidError, LoadError, UnsupportedError."""
        if value in self._kept or self.model.tensor(value) is not None:
            return
        fixed = fixed_nodes(self.model, [self.model.graph])
        nodes = self._missing(value)
        made = {v for node in nodes for v in node.outputs if v is not None}
        read = [v for node in nodes for v in (*node.inputs, *node.captures) if v is not None]
        reads = [
            v
            for v in dict.fromkeys(read)
            if v not in made and v.tensor is None and v.graph is self.model.graph
        ]
        fresh = [node for node in nodes if node not in fixed]
        self._done.update(fresh)
        given = [v for node in fresh for v in node.outputs if v is not None]
        gives = [v for v in given if v is value or self._needed(v)]
        self._run(Part(tuple(nodes), tuple(reads), tuple(gives), ()))
        self._held.update(gives)
        self._kept.drop(self._forgotten(value))

    def get(self, value: Value, sample: int) -> Any:
        """A value that was reached. Raises InvalidError."""
        known = self.model.constant(value)
        if known is not None:
            return known
        if value not in self._kept:
            raise InvalidError("it was not reached", where=value.name)
        return self._kept.get(value, sample)

    def _missing(self, value: Value) -> list[Node]:
        """Nodes that are still to be run, each after those it needs."""
        order: dict[Node, None] = {}
        stack = [(value.producer, False)]
        while stack:
            node, ready = stack.pop()
            if node is None or node in order or node in self._done:
                continue
            if ready:
                order[node] = None
                continue
            stack.append((node, True))
            read = (v for v in (*node.inputs, *node.captures) if v is not None)
            stack += [(v.producer, False) for v in read if v not in self._kept]
        return list(order)

    def _run(self, part: Part) -> None:
        given = {value: self._kept.element(value) for value in part.reads}
        session = Session(extract(self.model, part, given))
        for sample, results in enumerate(session.run_all(self._kept.feeds(part.reads))):
            for value, result in zip(part.gives, results, strict=True):
                self._kept.put(value, sample, result)

    def _needed(self, value: Value) -> bool:
        return any(self._outer(node) not in self._done for node, _ in value.uses)

    def _outer(self, node: Node) -> Node:
        while node.graph is not self.model.graph and node.graph.owner is not None:
            node = node.graph.owner
        return node

    def _forgotten(self, value: Value) -> list[Value]:
        gone = [v for v in self._held if v is not value and not self._needed(v)]
        self._held.difference_update(gone)
        return gone
