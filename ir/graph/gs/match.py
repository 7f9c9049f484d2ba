"""What in a gs.Graph came from where: by identity, and what a script copied by names.

A script may return a copy, a graph of its own making, or one that it wrote and imported again.
A node is then that of the same operator with the same outputs, or else with the same name.
"""

from collections.abc import Iterator
from typing import Any

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.gs.lending import Origins
from onnx_compress.ir.graph.gs.scopes import Scope, bodies_of, place
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node, Value

_DEEPEST = 64  # bodies in bodies, as in `build`
_Key = tuple[Any, ...]


class Match:
    """The scopes of a gs.Graph, and what they came from.

    `names`: what original values are called now. `taken`: original nodes that are still there.
    `restored`: original functions that are called, but were left out of the graph.
    """

    def __init__(self, graph: Any, origins: Origins, model: Model | None = None) -> None:
        self.origins = origins
        self.taken: set[Node] = set()
        for root in (graph, *graph.functions):
            self._take(root, 0)
        self.main = self._scope(graph, None, model.graph if model else None)
        left = list(model.functions) if model else []
        self.functions = [self._function(function, left) for function in graph.functions]
        self.restored = self._called(left)
        for outermost in (self.main, *self.functions):
            place(outermost, origins)
        self.names: dict[Value, str] = {}
        self._name()

    def scopes(self) -> Iterator[Scope]:
        """Every scope, those of functions too."""
        for root in (self.main, *self.functions):
            yield from root.walk()

    def origin(self, tensor: Any, scope: Scope) -> Value | None:
        """What a tensor came from; by its name, where no other tensor came from that."""
        known = self.origins.value(tensor)
        if known is not None:
            return known
        named = scope.known.get(tensor.name)
        return named if named is not None and self.names.get(named) == tensor.name else None

    def _take(self, graph: Any, depth: int) -> None:
        if depth > _DEEPEST:
            raise InvalidError(f"bodies nested deeper than {_DEEPEST}", "no real model does this")
        for node in graph.nodes:
            known = self.origins.node(node)
            if known is not None:
                self.taken.add(known)
            for _, bodies in bodies_of(node):
                for body in bodies:
                    self._take(body, depth + 1)

    def _scope(self, graph: Any, outer: Scope | None, origin: Graph | None) -> Scope:
        scope = Scope(graph, outer, origin)
        found = self._copied(graph, origin) if origin is not None else {}
        for at, node in enumerate(graph.nodes):
            before = self.origins.node(node) or found.get(at)
            scope.nodes.append((node, before))
            for key, bodies in bodies_of(node):
                old = [body for name, body in before.bodies if name == key] if before else []
                old += [None] * len(bodies)  # type: ignore[list-item]
                scope.bodies.setdefault(at, {})[key] = [
                    self._scope(body, scope, self.origins.graph(body) or was)
                    for body, was in zip(bodies, old, strict=False)
                ]
        return scope

    def _copied(self, graph: Any, origin: Graph) -> dict[int, Node]:
        """The originals of nodes that are none of those lent, by place."""
        found: dict[int, Node] = {}
        new = [(at, n) for at, n in enumerate(graph.nodes) if self.origins.node(n) is None]
        if not new:
            return found
        for key_of in (_by_outputs, _by_name):
            free: dict[_Key, Node] = {}
            for old in origin.nodes:
                names = [value.name for value in old.outputs if value]
                key = key_of(old.proto.op_type, old.proto.domain, old.proto.name, names)
                if old not in self.taken and key[-1]:
                    free.setdefault(key, old)
            for at, node in new:
                names = [tensor.name for tensor in node.outputs if tensor.name]
                match = free.pop(key_of(node.op, node.domain or "", node.name, names), None)
                if match is not None and at not in found:
                    found[at] = match
                    self.taken.add(match)
        return found

    def _function(self, function: Any, left: list[Graph]) -> Scope:
        """The scope of a function; its origin is taken from those left."""
        origin = self.origins.graph(function)
        if origin is None:
            origin = next((old for old in left if _id(old.proto) == function.unique_id), None)
        if origin in left:
            left.remove(origin)
        return self._scope(function, None, origin)

    def _called(self, left: list[Graph]) -> list[Graph]:
        """Functions that are called but not there: a new gs.Graph has none."""
        there = {scope.graph.unique_id for scope in self.functions}
        calls = {(node.domain or "", node.op) for s in self.scopes() for node, _ in s.nodes}
        called: list[Graph] = []
        while True:
            more = [f for f in left if f not in called and _id(f.proto) in calls - there]
            if not more:
                return [old for old in left if old in called]
            called += more
            nodes = [node for old in more for graph in old.walk() for node in graph.nodes]
            calls |= {(node.proto.domain, node.proto.op_type) for node in nodes}

    def _name(self) -> None:
        for scope in self.scopes():
            for tensor in (*scope.local.values(), *scope.read()):
                value = self.origins.value(tensor)
                if value is not None:
                    self.names[value] = tensor.name
        for scope in self.scopes():
            for name in (*scope.local, *scope.constants):
                if name in scope.known:
                    self.names.setdefault(scope.known[name], name)


def _by_outputs(op: str, domain: str, _: str, outputs: list[str]) -> _Key:
    return op, domain, tuple(outputs)


def _by_name(op: str, domain: str, name: str, _: list[str]) -> _Key:
    return op, domain, name


def _id(proto: Any) -> tuple[str, str]:
    return proto.domain, proto.name
