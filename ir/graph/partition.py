"""A main graph cut into parts that are small enough to be loaded one at a time.

Nodes with large weights fill part after part; a node without goes to the first part in which its
inputs are known. What is computed from constants alone goes along with each part that needs it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import ModelProto

from onnx_compress.ir.graph import elements
from onnx_compress.ir.graph.document import Document
from onnx_compress.ir.graph.elements import Tensor
from onnx_compress.ir.graph.export import add_function, add_initializer, add_node
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.view import Graph, Node, Value

_DECODED = 4  # bytes that an element of a narrow type may take once it is decoded
_AXES = 64  # of a shape, at most


@dataclass(frozen=True)
class Part:
    """Nodes in order; the values that come in and go out.

    `last_reads`: the values that no later part needs.
    """

    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]
    gives: tuple[Value, ...]
    last_reads: tuple[Value, ...]


def partition(model: Document, limit: int) -> list[Part]:
    """Parts whose weights take at most `limit` bytes each once they are decoded.

    One node with more is a part of its own. What the outputs do not need is left out.
    """
    fixed = repeatable(model)
    place: dict[Node, int] = {}
    loads, held = [0], [set[Value]()]
    for node in _needed(model, fixed):
        sources = [v for v in (*node.inputs, *node.captures) if v is not None]
        at = max((place[v.producer] for v in sources if v.producer in place), default=0)
        weights = _weights(model, node, fixed)
        while weights:
            new = sum(size for value, size in weights.items() if value not in held[at])
            if not new or not loads[at] or loads[at] + new <= limit:
                loads[at] += new
                held[at] |= set(weights)
                break
            at += 1
            if at == len(loads):
                loads.append(0)
                held.append(set())
        place[node] = at
    return _parts(model, place, fixed, len(loads))


def repeatable(model: Document) -> set[Node]:
    """Nodes that may be computed in several parts: from constants, for nothing but other nodes."""
    found: set[Node] = set()
    known = fixed_nodes(model, [model.graph])
    for node in model.graph.sorted():
        given_out = any(value is not None and value.exits for value in node.outputs)
        makers = [v.producer for v in node.inputs if v is not None and v.producer is not None]
        if node.op == "Constant" or (
            node in known and not given_out and all(maker in found for maker in makers)
        ):
            found.add(node)
    return found


def _needed(model: Document, fixed: set[Node]) -> list[Node]:
    """What the outputs are computed by, in order, but for the repeatable nodes."""
    found: set[Node] = set()
    todo = [value.producer for value in model.outputs()]
    while todo:
        node = todo.pop()
        if node is None or node in found:
            continue
        found.add(node)
        todo += [v.producer for v in (*node.inputs, *node.captures) if v is not None]
    return [node for node in model.graph.sorted() if node in found and node not in fixed]


def _weights(model: Document, node: Node, fixed: set[Node]) -> dict[Value, int]:
    """Bytes of the constants that a node, its bodies and its function need, once decoded."""
    found: dict[Value, int] = {}
    grown: dict[Value, int] = {}
    todo, seen = [node], {node}
    while todo:
        at = todo.pop()
        if at in fixed:
            grown |= _grown(model, at)
        inner = [*(body for _, body in at.bodies), *_function(model, at)]
        stored = [value for graph in inner for value in graph.initializers]
        for graph in inner:
            todo += [other for other in graph.nodes if other not in seen]
            seen.update(graph.nodes)
        for value in (*stored, *at.inputs, *at.captures, *_made(at)):
            if value is None:
                continue
            tensor = value.tensor or model.tensor(value)
            if tensor is not None:
                found[value] = _decoded(tensor)
            elif value.producer in fixed and value.producer not in seen:
                seen.add(value.producer)
                todo.append(value.producer)
    if grown:  # the largest step of what is unpacked, less what it is unpacked from
        value = max(grown, key=lambda each: grown[each])
        found[value] = max(found.get(value, 0), grown[value] - sum(found.values()))
    return found


def _grown(model: Document, node: Node) -> dict[Value, int]:
    """Bytes of what codes are decoded to, by the shape that they get."""
    value = node.input(1) if node.op == "Reshape" else None
    tensor = model.tensor(value)
    if value is None or tensor is None or not 0 < elements.count(elements.dims(tensor)) <= _AXES:
        return {}
    shape = model.constant(value)
    if shape is None or shape.dtype.kind != "i" or (shape <= 0).any():
        return {}
    return {value: _DECODED * prod(shape.tolist())}


def _made(node: Node) -> list[Value | None]:
    return node.outputs if node.op == "Constant" else []


def _function(model: Document, node: Node) -> list[Graph]:
    """The model's own function that a node calls, if it does."""
    called = node.proto.domain, node.proto.op_type
    return [f for f in model.functions if (f.proto.domain, f.proto.name) == called]


def _decoded(tensor: Tensor) -> int:
    return max(elements.nbytes(tensor), _DECODED * elements.count(elements.dims(tensor)))


def decoded_bytes(model: Document) -> int:
    """What all weights may take once decoded: as much for a model as for its compressions."""
    graphs = (*model.graphs(), *(g for f in model.functions for g in f.walk()))
    found = {v: _decoded(tensor) for graph in graphs for v, tensor in model.stored(graph)}
    fixed = repeatable(model)
    if any(_grown(model, node) for node in fixed):  # else no node has more than is stored
        for node in model.graph.nodes:
            if node not in fixed:
                found |= _weights(model, node, fixed)
    return sum(found.values())


def _parts(model: Document, place: dict[Node, int], fixed: set[Node], count: int) -> list[Part]:
    members: list[list[Node]] = [[] for _ in range(count)]
    for node, at in place.items():
        members[at].append(node)
    reads: list[dict[Value, None]] = [{} for _ in range(count)]
    needed: dict[Value, int] = dict.fromkeys(model.outputs(), count)
    for at, nodes in enumerate(members):
        for node in nodes:
            for value in (*node.inputs, *node.captures):
                if value is None or value.graph is not model.graph or value.producer in fixed:
                    continue
                outside = place.get(value.producer, -1) != at if value.producer else True
                if outside and model.tensor(value) is None and value.tensor is None:
                    reads[at][value] = None
                    needed[value] = max(needed.get(value, 0), at)
    parts = []
    for at, nodes in enumerate(members):
        own = supplied(nodes, fixed)
        made = [v for node in nodes for v in node.outputs if v is not None]
        gives = tuple(v for v in made if needed.get(v, -1) > at)
        last = tuple(v for v in reads[at] if needed[v] == at)
        if not gives:
            continue  # nothing needs it
        parts.append(Part((*own, *nodes), tuple(reads[at]), gives, last))
    return parts


def supplied(nodes: list[Node], fixed: set[Node]) -> list[Node]:
    """The nodes that compute what these need from constants, each after those it needs."""
    order: dict[Node, None] = {}
    stack = [(node, False) for node in reversed(nodes)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.setdefault(node)
            continue
        if node in order:
            continue
        if node in fixed:
            stack.append((node, True))
        makers = (v.producer for v in (*node.inputs, *node.captures) if v is not None)
        stack += [(maker, False) for maker in makers if maker is not None and maker in fixed]
    return list(order)


def extract(model: Model, part: Part, given: Mapping[Value, int]) -> Model:
    """A part as a model of its own, sharing the weights.

    `given`: what comes in, with its element type; also in the place of initializers.
    """
    return _assemble(model, part.nodes, given, part.gives)


def lift(model: Model, body: Graph, given: Mapping[Value, int]) -> Model:
    """A body of a node as a model of its own, sharing the weights, its nodes sorted.

    `given`: its inputs and what it reads from outside, with their element types.
    """
    return _assemble(model, body.sorted(), given, [value for value, _ in body.outputs])


def _assemble(
    model: Model, nodes: Sequence[Node], given: Mapping[Value, int], gives: Iterable[Value]
) -> Model:
    proto: ModelProto = without(model.shell, {"training_info", "metadata_props"})
    proto.ir_version = max(proto.ir_version, 4)  # below, initializers have to be inputs, too
    proto.graph.name = "part"
    known: dict[Value, None] = {}
    for node in nodes:
        add_node(node, proto.graph)
        read = [value for value in (*node.inputs, *node.captures) if value is not None]
        known |= dict.fromkeys(value for value in read if value.tensor is not None)
    known |= dict.fromkeys(value for value in gives if value.tensor is not None)
    for value in known:
        if value not in given:
            add_initializer(value, proto.graph)
    for value, element in given.items():
        proto.graph.input.add(name=value.name).type.tensor_type.elem_type = element
    for value in gives:
        proto.graph.output.add(name=value.name)
    for function in _called(model, nodes):
        add_function(function, proto)
    return Model(proto, None, model.storage)


def _called(model: Document, nodes: Iterable[Node]) -> list[Graph]:
    """The functions that nodes call, and those that these call."""
    found: dict[Graph, None] = {}
    todo = list(nodes)
    while todo:
        node = todo.pop()
        new = [function for function in _function(model, node) if function not in found]
        found.update(dict.fromkeys(new))
        inner = [*new, *(body for _, body in node.bodies)]
        todo += [other for graph in inner for other in graph.nodes]
    return [function for function in model.functions if function in found]
