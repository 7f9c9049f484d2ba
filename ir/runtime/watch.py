"""Watch: what flows into nodes and out of them, at any depth, run by run.

    x --> MatMul --> y          gives out x beside y

Without optimizations nothing is fused away, and numbers do not depend on what is watched.
Bodies of If, Loop and Scan are lifted into models of their own and run again on what they got.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.errors import UnsupportedError
from onnx_compress.ir.graph.build import add_exit
from onnx_compress.ir.graph.clone import clone
from onnx_compress.ir.graph.elements import Array, element_of
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import lift
from onnx_compress.ir.graph.view import Graph, Node, Value
from onnx_compress.ir.runtime.opening import open_session
from onnx_compress.ir.runtime.rounds import ROUNDS
from onnx_compress.ir.runtime.session import Feed


@dataclass(frozen=True)
class Tap:
    """An input of a node, or (`made`) one of its outputs, which it need not give so far."""

    node: Node
    slot: int
    made: bool = False

    @property
    def value(self) -> Value | None:
        """What is seen; None where the node leaves it out."""
        return (self.node.outputs if self.made else self.node.inputs)[self.slot]


Seen = dict[Tap, Array]


class Watch:
    """A model in the runtime, with taps."""

    def __init__(
        self, model: Model, taps: Sequence[Tap], threads: int = 1, optimize: bool = False
    ) -> None:
        """Load it. `threads`: samples that are run at a time.

        `optimize`: let the runtime fuse what is not watched. It is faster, and equal taps give
        equal numbers; others may differ in their last bits.

        Raises InvalidError, LoadError; UnsupportedError for taps in bodies of other operators.
        """
        self.model, self.threads, self._optimize = model, threads, optimize
        self._inner = _by_owner(model.graph, taps)
        probe = clone(model)
        twins = dict(zip(model.graph.nodes, probe.graph.nodes, strict=True))
        self._names: dict[Tap, str] = {}
        needed: dict[str, Value] = {}
        for tap in taps:
            value = _value(probe, twins[tap.node], tap) if tap.node in twins else None
            if value is not None:
                self._names[tap] = value.name
                needed[value.name] = value
        for node in self._inner:
            twin = twins[node]
            needed |= {v.name: v for v in (*twin.inputs, *twin.captures) if v is not None}
        inputs = {value.name for value in probe.inputs()}
        constants = {name: probe.constant(value) for name, value in needed.items()}
        self._stored = {name: array for name, array in constants.items() if array is not None}
        self._given = [n for n in needed if n not in self._stored and n not in inputs]
        for name in self._given:
            probe.graph.outputs.append((needed[name], None))
            add_exit(needed[name], probe.graph)
        self._count = len(model.graph.outputs)
        self._session = open_session(probe, threads, optimize)
        self._bodies: dict[Any, Watch] = {}

    def run_all(self, feeds: Sequence[Feed]) -> Iterator[tuple[list[Any], list[Seen]]]:
        """Sample by sample, in order: the outputs, and what was seen.

        First of the main graph, then of each run of each body.
        """
        runs = self._session.run_all(feeds)
        for feed in feeds:
            yield self._seen(feed, next(runs))

    def _seen(self, feed: Feed, results: list[Any]) -> tuple[list[Any], list[Seen]]:
        extra = dict(zip(self._given, results[self._count :], strict=True))
        known = {**self._stored, **feed, **extra}
        seen = [{tap: known[name] for tap, name in self._names.items()}]
        for node in self._inner:
            seen += self._replayed(node, known)
        return results[: self._count], seen

    def _replayed(self, node: Node, known: Mapping[str, Any]) -> list[Seen]:
        seen: list[Seen] = []

        def run(body: Graph, given: Mapping[Value, Any]) -> list[Any]:
            outside = {v: known[v.name] for v in node.captures if v.name in known}
            results, inside = self._run_body(node, body, {**outside, **given})
            seen.extend(inside)
            return results

        reads = [None if value is None else known[value.name] for value in node.inputs]
        ROUNDS[node.op](node, reads, run)
        return seen

    def _run_body(
        self, node: Node, body: Graph, given: Mapping[Value, Any]
    ) -> tuple[list[Any], list[Seen]]:
        for value, array in given.items():
            if not isinstance(array, np.ndarray):
                raise UnsupportedError("no tensor goes into its body", where=value.name)
        elements = {value: element_of(array.dtype) for value, array in given.items()}
        key = (body, *elements.items())
        if key not in self._bodies:
            model = lift(self.model, body, elements)
            twins = {_key(new): new for graph in model.graphs() for new in graph.nodes}
            inside = [tap for tap in self._inner[node] if body.encloses(tap.node.graph)]
            moved = {tap: Tap(twins[_key(tap.node)], tap.slot, tap.made) for tap in inside}
            self._bodies[key] = Watch(model, list(moved.values()), optimize=self._optimize)
            self._bodies[key].back = {new: tap for tap, new in moved.items()}
        watch = self._bodies[key]
        feed = {value.name: array for value, array in given.items()}
        results, seen = next(watch.run_all([feed]))
        return results, [{watch.back[tap]: a for tap, a in one.items()} for one in seen]

    back: dict[Tap, Tap]  # of a lifted body: its taps as those of the model that it was lifted from


def _by_owner(graph: Graph, taps: Sequence[Tap]) -> dict[Node, list[Tap]]:
    """Nodes of a graph with taps in their bodies. Raises UnsupportedError."""
    found: dict[Node, list[Tap]] = {}
    for tap in taps:
        inner = tap.node.graph
        while inner is not graph and inner.owner is not None and inner.owner.graph is not graph:
            inner = inner.owner.graph
        if inner is graph or inner.owner is None:
            continue
        if inner.owner.op not in ROUNDS:
            raise UnsupportedError(f"inside of {inner.owner.op}", where=tap.node.name)
        found.setdefault(inner.owner, []).append(tap)
    return found


def _value(model: Model, node: Node, tap: Tap) -> Value | None:
    if not tap.made:
        return node.input(tap.slot)
    while len(node.outputs) <= tap.slot:
        node.outputs.append(None)
    if node.outputs[tap.slot] is None:
        made = model.add_output(node, "watched")
        node.outputs.pop()
        node.outputs[tap.slot] = made
    return node.outputs[tap.slot]


def _key(node: Node) -> tuple[str, ...]:
    """What a node and its copy in a lifted body share: names are unique in a graph and below."""
    return tuple(value.name for value in node.outputs if value is not None)
