"""A graph is cut into parts that are whole, in order, and small enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from onnx_compress.ir.graph import (
    Model,
    Node,
    Value,
    clone,
    elements,
    from_proto,
    to_bytes,
)
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.graph.partition import Part, decoded_bytes, extract, partition

from graphs import parsed, view
from heavy_models import (
    HEAVY,
    LIMITS,
    MODELS,
    SIDE,
    coded,
    four,
    square,
)

ABOUT = 1.5  # times the limit that a part may take: biases and the like go anywhere


def sources(node: Node) -> list[Value]:
    return [value for value in (*node.inputs, *node.captures) if value is not None]


def needed_nodes(model: Model) -> set[Node]:
    found: set[Node] = set()
    todo = [value.producer for value in model.outputs()]
    while todo:
        node = todo.pop()
        if node is not None and node.graph is model.graph and node not in found:
            found.add(node)
            todo += [value.producer for value in sources(node)]
    return found


def stored(model: Model) -> int:
    """Bytes of all numbers in a model as float32, however they are kept."""
    total = 0
    for graph in model.graphs():
        for value in (*graph.initializers, *(n.output for n in graph.nodes if n.op == "Constant")):
            tensor = value.tensor or model.tensor(value)
            total += 4 * elements.count(elements.dims(tensor)) if tensor is not None else 0
    return total


def piece(model: Model, part: Part) -> Model:
    return extract(model, part, dict.fromkeys(part.reads, TensorProto.FLOAT))


def check_parts(model: Model, parts: list[Part]) -> None:
    """What holds of every cut."""
    known = set(model.inputs())
    for part in parts:
        assert part.gives, "a part for nothing"
        assert set(part.reads) <= known
        here = set(part.reads)
        for node in part.nodes:
            for value in sources(node):
                stands = value in here or value.tensor is not None
                assert stands or value.graph is not model.graph, (node, value)
            here |= {value for value in node.outputs if value is not None}
        assert len(part.nodes) == len(set(part.nodes))
        assert len(part.reads) == len(set(part.reads))
        assert not set(part.gives) & known, "given twice"
        assert set(part.gives) <= here - set(part.reads)
        known |= set(part.gives)
    for value in model.outputs():
        assert value in known or model.tensor(value) is not None or value.tensor is not None
    placed = {node for part in parts for node in part.nodes}
    assert {node for node in needed_nodes(model) if node.op != "Constant"} <= placed
    check_last_reads(model, parts)


def check_last_reads(model: Model, parts: list[Part]) -> None:
    last = {value: at for at, part in enumerate(parts) for value in part.reads}
    for value in model.outputs():
        last.pop(value, None)
    for at, part in enumerate(parts):
        assert set(part.last_reads) == {value for value, end in last.items() if end == at}
        assert all(value in last or value in model.outputs() for value in part.gives), "for nobody"


def varying(model: Model) -> set[Node]:
    """The nodes of the main graph that anything given to the model reaches."""
    found: set[Node] = set()
    todo = [value for value, _ in model.graph.inputs]
    while todo:
        for node in todo.pop().consumers:
            while node.graph is not model.graph:
                node = node.graph.owner
            if node not in found:
                found.add(node)
                todo += [value for value in node.outputs if value is not None]
    return found


def heaviest(model: Model, part: Part) -> int:
    """Bytes of the weights of the one node of a part that has most."""
    most, moving = 0, varying(model)
    for node in part.nodes:
        own, todo = {node: None}, [node]
        while todo:
            for value in sources(todo.pop()):
                maker = value.producer
                if maker in part.nodes and maker not in moving and maker not in own:
                    own[maker] = None
                    todo.append(maker)
        most = max(most, stored(piece(model, Part(tuple(own), (), (), ()))))
    return most


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", MODELS)
def test_parts_are_whole_and_in_order(name, limit):
    model = from_proto(MODELS[name]())
    before = to_bytes(model)
    check_parts(model, partition(model, limit))
    assert to_bytes(model) == before


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", MODELS)
def test_parts_keep_within_the_limit(name, limit):
    model = from_proto(MODELS[name]())
    for part in partition(model, limit):
        single = heaviest(model, part)
        allowed = ABOUT * limit if single <= limit else single + limit
        assert stored(piece(model, part)) <= allowed


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_models_that_hold_only_what_they_need(name):
    model = from_proto(MODELS[name]())
    for part in partition(model, HEAVY):
        made = piece(model, part)
        check(made)
        assert [v.name for v in made.inputs()] == [v.name for v in part.reads]
        assert [v.name for v in made.outputs()] == [v.name for v in part.gives]
        assert len(made.graph.nodes) == len(part.nodes)
        assert all(value.is_used for value in made.graph.initializers)
        to_bytes(made)


@pytest.mark.parametrize("name", MODELS)
def test_equal_models_are_cut_alike(name):
    def names(model: Model) -> list[list[list[str]]]:
        return [
            [[n.name for n in part.nodes]]
            + [[v.name for v in vs] for vs in (part.reads, part.gives, part.last_reads)]
            for part in partition(model, HEAVY)
        ]

    model = from_proto(MODELS[name]())
    assert names(model) == names(clone(model)) == names(from_proto(MODELS[name]()))


def test_a_chain_is_cut_where_the_weights_are():
    model = from_proto(MODELS["a chain"]())
    counts = [len(partition(model, limit)) for limit in LIMITS]
    assert counts == [4, 4, 2, 1]


def test_many_small_weights_are_cut_as_well():
    steps = " ".join(f"h{at + 1} = Add(h{at}, w{at})" for at in range(400))
    weights = {f"w{at}": np.full(SIDE, at, np.float32) for at in range(400)}
    model = view(f"(float[N,32] h0) => (float[N,32] h400) {{ {steps} }}", **weights)
    limit = 100 * SIDE * 4  # a hundred of them
    for part in partition(model, limit):
        assert stored(piece(model, part)) <= ABOUT * limit


def test_a_node_with_much_is_a_part_of_its_own():
    wide = np.zeros((SIDE, 8 * SIDE), np.float32)
    model = view(
        "(float[N,32] x) => (float[N,32] y) { p = MatMul(x, a) q = MatMul(p, w) "
        "y = MatMul(q, v) }",
        a=square(0),
        w=wide,
        v=wide.T.copy(),
    )  # fmt: skip
    assert [[n.op for n in part.nodes] for part in partition(model, 2 * HEAVY)] == [["MatMul"]] * 3


def test_narrow_weights_count_as_what_they_are_decoded_to():
    codes = from_proto(coded("f = DequantizeLinear(codes, k) y = MatMul(x, f)"))
    plain = from_proto(four("f = Identity(a) y = MatMul(x, f)"))
    for model in (codes, plain):
        (part,) = partition(model, HEAVY)
        assert HEAVY <= decoded_bytes(piece(model, part)) < HEAVY + 64


@st.composite
def drawn_models(draw) -> ModelProto:
    """Chains, diamonds, shared and computed weights, in any order of the file."""
    weights = {f"w{at}": square(at)[:8, :8].copy() for at in range(4)}
    values, constants = ["x"], list(weights)
    nodes, pick = [], st.sampled_from
    for at in range(draw(st.integers(1, 14))):
        kind, name = draw(pick(["MatMul", "Add", "Relu", "Transpose", "Neg", "Split"])), f"v{at}"
        one, constant = draw(pick(values)), draw(pick(constants))
        if kind in ("Transpose", "Neg"):
            nodes.append(helper.make_node(kind, [constant], [name]))
            constants.append(name)
        elif kind == "Split":
            both = [f"{name}a", f"{name}b"]
            nodes.append(helper.make_node(kind, [one], both, axis=1))
            nodes.append(helper.make_node("Concat", both[::-1], [name], axis=1))
            values.append(name)
        else:
            other = {"MatMul": [constant], "Add": [draw(pick(values))], "Relu": []}[kind]
            nodes.append(helper.make_node(kind, [one, *other], [name]))
            values.append(name)
    made = sorted({*values[1:], *constants[4:]}) or ["x"]
    outputs = draw(st.lists(pick(made), min_size=1, max_size=3, unique=True))
    proto = parsed("(float[N,8] x) => () { }", **weights)
    proto.graph.node.extend(draw(st.permutations(nodes)))
    proto.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in outputs)
    return proto


@given(drawn_models(), st.sampled_from([1, 256, 600, 1 << 20]))
def test_any_graph_is_cut_into_parts_that_are_whole_and_in_order(proto, limit):
    model = from_proto(proto)
    parts = partition(model, limit)
    check_parts(model, parts)
    for part in parts:
        check(piece(model, part))
        single = heaviest(model, part)
        assert stored(piece(model, part)) <= (ABOUT * limit if single <= limit else single + limit)
