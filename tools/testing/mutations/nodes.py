"""More nodes, and nodes in another order."""

from collections.abc import Callable

from onnx import ModelProto, NodeProto, TensorProto, helper

from onnx_compress.testing.mutations.base import Names, Rng, bodies, copy, graphs, some

DOMAIN = "com.microsoft"


def reorder_nodes(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Another topological order of the main graph."""
    nodes = list(model.graph.node)
    same = list(range(len(nodes)))
    # picking the last there is finds another order wherever there is one
    orders = (_order(nodes, lambda count: int(rng.integers(count))), _order(nodes, lambda n: n - 1))
    order = next((found for found in orders if found != same), None)
    if order is None:
        return None
    out = copy(model)
    del out.graph.node[:]
    out.graph.node.extend(nodes[at] for at in order)
    return out


def _order(nodes: list[NodeProto], pick: Callable[[int], int]) -> list[int]:
    """Places of the nodes in an order in which each comes after those that it reads."""
    made = {name for node in nodes for name in node.output if name}
    waiting = {at: _read(node) & made for at, node in enumerate(nodes)}
    done: set[str] = set()
    order = []
    while waiting:
        ready = [at for at, names in waiting.items() if names <= done]
        order.append(ready[pick(len(ready))])
        del waiting[order[-1]]
        done |= set(nodes[order[-1]].output)
    return order


def copy_of(node: NodeProto) -> NodeProto:
    """A message of its own."""
    out = type(node)()
    out.CopyFrom(node)
    return out


def _read(node: NodeProto) -> set[str]:
    found = set(node.input)
    for body in bodies(node):
        for inner in body.node:
            found |= _read(inner)
        found |= {info.name for info in body.output}
    return found


def identity_inserted(model: ModelProto, rng: Rng) -> ModelProto | None:
    """An Identity in front of some inputs of nodes, at any depth."""
    out = copy(model)
    names = Names(out)
    done = False
    for graph in list(graphs(out.graph)):
        chosen = set(some([at for at, n in enumerate(graph.node) if any(n.input[:1])], rng))
        nodes = []
        for at, node in enumerate(graph.node):
            if at in chosen:
                between = names.fresh("between")
                nodes.append(helper.make_node("Identity", [node.input[0]], [between], between))
                node.input[0] = between
            nodes.append(copy_of(node))
        del graph.node[:]
        graph.node.extend(nodes)
        done |= bool(chosen)
    return out if done else None


def dead_nodes(model: ModelProto, rng: Rng) -> ModelProto | None:
    """Nodes that nothing reads, and a stored tensor for them."""
    out = copy(model)
    names = Names(out)
    source = names.fresh("dead_weight")
    out.graph.initializer.append(
        helper.make_tensor(source, TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    )
    for _ in range(int(rng.integers(1, 4))):
        made = names.fresh("dead")
        out.graph.node.append(helper.make_node("Neg", [source], [made], made))
        source = made
    return out


def custom_domain_node(model: ModelProto, rng: Rng) -> ModelProto | None:
    """A node of another domain behind an output: the runtime's own Gelu, of zeros."""
    floats = [
        info for info in model.graph.output if info.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    if not floats:
        return None
    out = copy(model)
    names = Names(out)
    target = floats[int(rng.integers(len(floats)))].name
    inner = names.fresh("inner")
    for graph in graphs(out.graph):
        for node in graph.node:
            for slots in (node.input, node.output):
                for slot, name in enumerate(slots):
                    if name == target:
                        slots[slot] = inner
    zero, gated = names.fresh("zero"), names.fresh("gated")
    out.graph.initializer.append(helper.make_tensor(zero, TensorProto.FLOAT, [], [0.0]))
    out.graph.node.append(helper.make_node("Gelu", [zero], [gated], gated, domain=DOMAIN))
    out.graph.node.append(helper.make_node("Add", [inner, gated], [target], names.fresh("sum")))
    if all(entry.domain != DOMAIN for entry in out.opset_import):
        out.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return out
