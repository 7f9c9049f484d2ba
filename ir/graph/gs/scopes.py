"""The graphs of a gs.Graph as a tree, and where in it constants belong.

gs writes by name, and so is meant here: two tensors of one name are one value. A constant is
written once, in the graph it came from, or in the innermost one around all its users; gs writes it
into each of them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx_graphsurgeon import Constant
from onnx_graphsurgeon import Graph as GsGraph
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.gs.lending import Origins, own_values
from onnx_compress.ir.graph.view import Graph, Node, Value

_HINT = "give new tensors new names, and rename only to names that are free"


class Scope:
    """One graph, function or body; `origin` is what it came from."""

    def __init__(self, graph: Any, outer: "Scope | None", origin: Graph | None) -> None:
        self.graph, self.outer, self.origin = graph, outer, origin
        self.known: dict[str, Value] = {}  # of the origin, by their names then
        if origin is not None:
            self.known = {value.name: value for value in own_values(origin)}
        self.nodes: list[tuple[Any, Node | None]] = []
        self.bodies: dict[int, dict[str, list[Scope]]] = {}  # by the place of the node
        self.local: dict[str, Any] = {t.name: t for node in graph.nodes for t in node.outputs}
        self.local |= {t.name: t for t in graph.inputs}
        self.local.pop("", None)
        self.constants: dict[str, Any] = {}

    def outwards(self) -> "Iterator[Scope]":
        """This scope and those around it, inner ones first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def walk(self) -> "Iterator[Scope]":
        """This scope and all within, outer ones first."""
        yield self
        for bodies in self.bodies.values():
            for scopes in bodies.values():
                for scope in scopes:
                    yield from scope.walk()

    def meaning(self, name: str) -> Any:
        """The tensor of this graph itself that has a name."""
        return self.local.get(name) or self.constants.get(name)

    def read(self) -> Iterator[Any]:
        """The tensors that are used here, empty ones left out."""
        for node, _ in self.nodes:
            yield from (tensor for tensor in node.inputs if tensor.name)
        yield from self.graph.outputs


def bodies_of(node: Any) -> Iterator[tuple[str, list[Any]]]:
    """The attributes of a gs node that hold graphs."""
    for key, value in node.attrs.items():
        if isinstance(value, GsGraph):
            yield key, [value]
        elif isinstance(value, list) and value and all(isinstance(v, GsGraph) for v in value):
            yield key, value


def place(root: Scope, origins: Origins) -> None:
    """Fill `constants` of a tree. Raises InvalidError where a name means two things."""
    users: dict[int, tuple[Any, list[Scope]]] = {}
    for scope in root.walk():
        for tensor in scope.read():
            if isinstance(tensor, Constant):
                seen = users.setdefault(id(tensor), (tensor, []))[1]
                if not seen or seen[-1] is not scope:
                    seen.append(scope)
    for constant, scopes in users.values():
        for scope in scopes:
            _put(constant, scope, _home(constant, scope, scopes, origins))
    for scope in root.walk():
        _check(scope)


def _home(constant: Any, scope: Scope, users: list[Scope], origins: Origins) -> Scope:
    value = origins.value(constant)
    around = list(scope.outwards())
    if value is not None:
        homes = [outer for outer in around if outer.origin is value.graph]
    else:
        homes = [outer for outer in around if constant.name in outer.known]
    if not homes:
        homes = [outer for outer in around if all(outer in s.outwards() for s in users)]
    if not homes:
        return scope
    between = around[: around.index(homes[0]) + 1]
    hidden = any(constant.name in inner.local for inner in between)
    return scope if hidden else homes[0]


def _put(constant: Any, scope: Scope, home: Scope) -> None:
    """Where another one of that name is there already: with the user, where it hides that."""
    there = home.constants.setdefault(constant.name, constant)
    if there is constant or _same(there, constant):
        return
    if home is scope:
        raise InvalidError("two constants of one name", _HINT, constant.name)
    _put(constant, scope, scope)


def _same(one: Any, other: Any) -> bool:
    if one._values is other._values:
        return True
    first, second = (
        np.asarray(c._values.load() if isinstance(c._values, LazyValues) else c._values)
        for c in (one, other)
    )
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and first.tobytes() == second.tobytes()


def _check(scope: Scope) -> None:
    """Every name must mean here what the script took it from."""
    for name, constant in scope.constants.items():
        if scope.local.get(name, constant) is not constant:
            raise InvalidError("two values of one name", _HINT, name)
    for tensor in scope.read():
        meant = next((s for s in scope.outwards() if s.meaning(tensor.name) is not None), None)
        if meant is None or meant.meaning(tensor.name) is tensor:
            continue
        if any(s.local.get(tensor.name) is tensor for s in meant.outwards()):
            raise InvalidError("the name of another value hides it in a body", _HINT, tensor.name)
