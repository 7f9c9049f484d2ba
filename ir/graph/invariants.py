"""What must hold of a graph after every pass, as a table of checks."""

from collections.abc import Callable, Iterator

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Value

Check = Callable[[Model, Graph], Iterator[str]]


def _uses(_: Model, graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        for slot, value in enumerate(node.inputs):
            if value is not None and (node, slot) not in value.uses:
                yield f"{value} does not know that {node.name} reads it"
    for value in _values(graph):
        for node, slot in value.uses:
            if node not in node.graph.nodes or node.input(slot) is not value:
                yield f"{value} claims to be read by {node.name}, which does not"


def _producers(_: Model, graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.graph is not graph:
            yield f"{node.name} is listed in a graph that is not its own"
        for value in node.outputs:
            if value is not None and (value.producer is not node or value.graph is not graph):
                yield f"{value} is not made by {node.name}, which lists it"


def _sources(model: Model, graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        for value in node.inputs:
            if value is None:
                continue
            if not value.graph.encloses(graph):
                yield f"{node.name} reads {value}, which it cannot see"
            elif not (value.producer or value.is_input or value.tensor is not None):
                yield f"{node.name} reads {value}, which nothing makes"
    for value, _ in graph.outputs:
        if not (value.producer or value.is_input or value.tensor is not None):
            yield f"the output {value} is made by nothing"


def _names(_: Model, graph: Graph) -> Iterator[str]:
    seen: set[str] = set()
    for value in _values(graph):
        if value.name in seen:
            yield f"two values are called {value.name!r}"
        seen.add(value.name)


def _exits(_: Model, graph: Graph) -> Iterator[str]:
    for value, _info in graph.outputs:
        if graph not in value.exits:
            yield f"{value} does not know that it is an output"


def _order(_: Model, graph: Graph) -> Iterator[str]:
    try:
        graph.sorted()
    except InvalidError as error:
        yield str(error)


CHECKS: dict[str, Check] = {
    "use lists": _uses,
    "producers": _producers,
    "sources": _sources,
    "names": _names,
    "outputs": _exits,
    "order": _order,
}


def _values(graph: Graph) -> Iterator[Value]:
    seen = {value: None for value, _ in graph.inputs}
    seen |= dict.fromkeys(graph.initializers)
    seen |= {value: None for node in graph.nodes for value in node.outputs if value is not None}
    yield from seen


def check(model: Model) -> None:
    """Raise InvalidError with the first rule that the model breaks."""
    for graph in (*model.graphs(), *model.functions):
        for name, rule in CHECKS.items():
            for problem in rule(model, graph):
                raise InvalidError(f"broken {name}: {problem}", "this is a bug of the last pass")
