"""A main graph cut into parts that are small enough to be loaded one at a time.

Nodes with large weights fill part after part; a node without goes to the first part in which its
inputs are known. What is computed from constants alone goes along with each part that needs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from onnx_compress.ir.graph import tensors
from onnx_compress.ir.graph.document import Document
from onnx_compress.ir.graph.export import add_function, add_initializer, add_node
from onnx_compress.ir.graph.fixed import fixed_nodes
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.tensors import Tensor
from onnx_compress.ir.graph.view import Node, Value

_DECODED = 4  # bytes that an element of a narrow type may take once it is decoded
_LIGHT = 64  # a node whose weights take less than this part of the limit is put anywhere


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
    """Parts whose weights take about `limit` bytes each once they are decoded.

    One node with more is a part of its own.
    """
    fixed = _repeatable(model)
    place: dict[Node, int] = {}
    loads, held = [0], [set[Value]()]
    for node in model.graph.sorted():
        if node in fixed:
            continue
        sources = [v for v in (*node.inputs, *node.captures) if v is not None]
        earliest = max((place[v.producer] for v in sources if v.producer in place), default=0)
        weights = _weights(model, [node], fixed)
        new = sum(size for value, size in weights.items() if value not in held[-1])
        at = len(loads) - 1
        if new * _LIGHT <= limit:
            at = earliest
        elif loads[-1] and loads[-1] + new > limit:
            loads.append(0)
            held.append(set())
            at, new = at + 1, sum(weights.values())
        place[node] = at
        loads[at] += new
        held[at] |= set(weights)
    return _parts(model, place, fixed, len(loads))


def _repeatable(model: Document) -> set[Node]:
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


def _weights(model: Document, nodes: list[Node], fixed: set[Node]) -> dict[Value, int]:
    """Bytes of the constants that nodes and their bodies need, once decoded."""
    found: dict[Value, int] = {}
    todo = list(nodes)
    seen = set(nodes)
    while todo:
        node = todo.pop()
        todo += [inner for _, body in node.bodies for inner in body.nodes]
        for value in (*node.inputs, *node.captures):
            tensor = model.tensor(value)
            if value is not None and tensor is not None:
                found[value] = _decoded(tensor)
            elif value is not None and value.producer in fixed and value.producer not in seen:
                seen.add(value.producer)
                todo.append(value.producer)
    return found


def _decoded(tensor: Tensor) -> int:
    return max(tensors.nbytes(tensor), _DECODED * tensors.count(tensors.dims(tensor)))


def decoded_bytes(model: Document) -> int:
    """What all weights may take once decoded: as much for a model as for its compressions."""
    total = 0
    for graph in model.graphs():
        made = [node.output for node in graph.nodes if node.op == "Constant" and node.outputs]
        for value in (*graph.initializers, *made):
            tensor = value.tensor or model.tensor(value)
            total += _decoded(tensor) if tensor is not None else 0
    return total


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
        own = _supplied(nodes, fixed)
        made = [v for node in nodes for v in node.outputs if v is not None]
        gives = tuple(v for v in made if needed.get(v, -1) > at)
        last = tuple(v for v in reads[at] if needed[v] == at)
        if not gives:
            continue  # nothing needs it
        parts.append(Part((*own, *nodes), tuple(reads[at]), gives, last))
    return parts


def _supplied(nodes: list[Node], fixed: set[Node]) -> list[Node]:
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


def extract(model: Model, part: Part, elements: Mapping[Value, int]) -> Model:
    """A part as a model of its own, sharing the weights. `elements`: the types of what comes in."""
    proto: ModelProto = without(model.shell, {"training_info", "metadata_props"})
    proto.graph.name = "part"
    known: dict[Value, None] = {}
    for node in part.nodes:
        add_node(node, proto.graph)
        for value in (*node.inputs, *node.captures):
            if value is not None and value.tensor is not None and value.graph is model.graph:
                known[value] = None
    for value in known:
        add_initializer(value, proto.graph)
    for value in part.reads:
        proto.graph.input.add(name=value.name).type.tensor_type.elem_type = elements[value]
    for value in part.gives:
        proto.graph.output.add(name=value.name)
    for function in model.functions:
        add_function(function, proto)
    return Model(proto, None, model.storage)
