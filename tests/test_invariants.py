"""What must always hold: each rule finds what breaks it, and no edit breaks any."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import Value, clone, from_proto, to_bytes
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.invariants import check

from graphs import BRANCHES, HEAD, LOOP, after, node, value, view

# --------------------------------------------------------------------------------- invariants


def test_each_rule_finds_what_breaks_it():
    def broken(change) -> str:
        model = view(BRANCHES)
        change(model)
        with pytest.raises(InvalidError) as caught:
            check(model)
        return str(caught.value)

    def forget_use(model):
        value(model, "h").uses.clear()

    def claim_use(model):
        value(model, "h").uses[node(model, "Add"), 0] = None

    def foreign_producer(model):
        value(model, "h").producer = node(model, "Mul")

    def no_source(model):
        value(model, "b").tensor = None

    def same_name(model):
        value(model, "h").name = "b"

    def forget_exit(model):
        value(model, "y").exits.clear()

    assert "use lists" in broken(forget_use)
    assert "use lists" in broken(claim_use)
    assert "producers" in broken(foreign_producer)
    assert "sources" in broken(no_source)
    assert "names" in broken(same_name)
    assert "outputs" in broken(forget_exit)


def test_a_value_that_nothing_makes_is_found():
    for body in ("y = Add(x, missing)", "z = Abs(x)"):
        proto = parse_model(HEAD + f"g (float[2] x) => (float[2] y) {{ {body} }}")
        with pytest.raises(InvalidError, match=r"made by nothing|nothing makes"):
            check(from_proto(proto))


# -------------------------------------------------------------------------------- any edits


@given(st.data())
@settings(max_examples=60)
def test_any_sequence_of_edits_leaves_a_right_model_with_the_same_interface(data):
    model = view(data.draw(st.sampled_from([BRANCHES, LOOP])))
    before = model.interface()
    for _ in range(data.draw(st.integers(1, 8))):
        graph = data.draw(st.sampled_from(list(model.graphs())))
        seen = [v for g in model.graphs() if g.encloses(graph) for v in visible(g)]
        floats = [v for v in seen if v.name not in ("c", "n", "i", "go", "on", "still", "d")]
        old, new = (data.draw(st.sampled_from(floats)) for _ in range(2))
        edit = data.draw(st.sampled_from(["add", "replace", "rename", "clean", "copy"]))
        if edit == "add":
            if any(depends(v, made) for v in (old, new) for made in around(graph)):
                continue
            model.add_node(graph, "Sum", [old, new])
        elif edit == "replace" and not depends(new, old) and not old.is_input:
            if new.graph.encloses(old.graph):
                model.replace_uses(old, new)
        elif edit == "rename" and not any(
            old is v for v, _ in (*model.graph.inputs, *model.graph.outputs)
        ):
            model.rename(old, model.fresh("r") + "_new")
        elif edit == "clean":
            remove_unused(model, seen)
        elif edit == "copy":
            model = clone(model)
        check(model)
    assert model.interface() == before
    assert to_bytes(after(model)) == to_bytes(model)


def visible(graph) -> list[Value]:
    made = [v for n in graph.nodes for v in n.outputs if v is not None]
    return [v for v, _ in graph.inputs] + list(graph.initializers) + made


def depends(late: Value, early: Value) -> bool:
    todo, seen = [late], set()
    while todo:
        at = todo.pop()
        if at is early:
            return True
        if at.producer is not None and at.producer not in seen:
            seen.add(at.producer)
            todo += [v for v in (*at.producer.inputs, *at.producer.captures) if v is not None]
            todo += [v for _, body in at.producer.bodies for v in visible(body)]
    return False


def around(graph) -> list[Value]:
    """What the nodes around a graph make: it can be seen in the graph, but not be read there."""
    if graph.owner is None:
        return []
    return [*graph.owner.outputs, *around(graph.owner.graph)]
