"""Scripts of graphsurgeon as people write them: those that work, and what others get wrong."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx.parser import parse_model

from onnx_compress import compress
from onnx_compress.ir.errors import InvalidError, PassError
from onnx_compress.ir.graph import Model, from_proto, to_proto
from onnx_compress.ir.graph.invariants import check
from onnx_compress.passes import GraphSurgeonPass, Pipeline, Report

from graphs import BRANCHES, HEAD, product, run, value, view, weight

Script = Callable[[Any], Any]


def applied(model: Model, script: Script) -> Report:
    """A script run on a model as a pass, checked."""
    report = GraphSurgeonPass(script).run(model, None)
    check(model)
    return report


def insert_node(graph: gs.Graph) -> None:
    """y = f(x)  ->  y = Neg(Neg(f(x)))"""
    out = graph.outputs[0]
    (last,) = out.inputs
    inner = gs.Variable("inner", out.dtype, out.shape)
    last.outputs = [inner]
    (middle,) = graph.layer(op="Neg", inputs=[inner], outputs=["middle"])
    graph.layer(op="Neg", inputs=[middle], outputs=[out])


def rename(graph: gs.Graph) -> None:
    graph.tensors()["h"].name = "hidden"


def through_onnx(graph: gs.Graph) -> gs.Graph:
    return gs.import_onnx(onnx.shape_inference.infer_shapes(gs.export_onnx(graph)))


def replace_constant(graph: gs.Graph) -> None:
    b = graph.tensors()["b"]
    b.values = b.values * np.float32(1)  # equal, in a new array
    graph.tensors()["h"].inputs[0].inputs[1] = gs.Constant("b2", b.values.copy())


def fold(graph: gs.Graph) -> gs.Graph:
    return graph.fold_constants().cleanup().toposort()


SCRIPTS: dict[str, tuple[Script, str]] = {
    "insert": (insert_node, "2 nodes added, 1 node changed"),
    "rename": (rename, "3 nodes changed"),
    "rename a copy": (lambda graph: rename(copy := graph.copy()) or copy, ""),
    "replace": (replace_constant, "1 node changed, 1 weight added"),
    "through onnx": (through_onnx, ""),
    "clean up": (lambda graph: graph.cleanup().toposort(), "nothing changed"),
    "fold": (fold, "3 nodes removed, 2 nodes changed"),
    "copy": (lambda graph: graph.copy(), "nothing changed"),
    "new": (lambda g: gs.Graph(g.nodes, g.inputs, g.outputs), "nothing changed"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_models_with_branches_do_the_same_after_scripts_that_only_rearrange(name, capsys):
    script, summary = SCRIPTS[name]
    model, before = view(HEAD + BRANCHES), view(HEAD + BRANCHES)
    report = applied(model, script)
    assert summary in ("", report.summary)
    assert report.modified == (to_proto(model) != to_proto(before))
    assert model.interface() == before.interface()
    for c in (True, False):
        feed = {"c": np.bool_(c), "x": np.float32([1, -2])}
        np.testing.assert_array_equal(run(model, **feed), run(before, **feed))
    assert capsys.readouterr().out == ""


def test_constants_of_one_number_are_folded_in_their_type():
    text = "g (float[2] x) => (float[2] y) { c = Constant<value_float = 0.1>() y = Mul(x, c) }"
    model = view(text)
    applied(model, fold)
    assert model.constant(value(model, "c")).dtype == np.float32
    assert len(run(model, x=np.float32([1, 2]))[0]) == 2


def test_large_constants_are_folded_too():
    text = "g (float[N,64] x) => (float[N,64] y) { t = Transpose(w)  y = MatMul(x, t) }"
    model = view(text, w=weight())
    assert applied(model, fold).summary == "1 node removed, 1 weight added, 1 weight removed"
    np.testing.assert_array_equal(model.constant(value(model, "t")), weight().T)


def test_new_constants_of_old_formats_are_no_inputs():
    model = view("g (float[2] x) => (float[2] y) { y = Neg(x) }", opset=8, ir_version=3)
    applied(model, lambda g: g.nodes[0].__setattr__("op", "Add") or g.nodes[0].inputs.append(
        gs.Constant("one", np.ones(2, np.float32))
    ))  # fmt: skip
    assert model.ir_version == 4
    assert run(model, x=np.float32([1, 2]))[0].tolist() == [2, 3]


def test_names_that_gs_invents_are_free_in_all_graphs():
    def script(graph: gs.Graph) -> None:
        for body in (graph, *graph.subgraphs(recursive=True)):
            for node in list(body.nodes):
                for slot, tensor in enumerate(node.inputs):
                    node.inputs[slot] = body.layer(op="Identity", inputs=[tensor], outputs=["i"])[0]

    model, before = view(HEAD + BRANCHES), view(HEAD + BRANCHES)
    model.add_constant(model.graph, weight(), "i_7")  # nothing reads it, so gs does not see it
    applied(model, script)
    assert model.constant(value(model, "i_7")).shape == weight().shape
    for c in (True, False):  # the runtime refuses a name that is given in a body, too
        feed = {"c": np.bool_(c), "x": np.float32([1, -2])}
        np.testing.assert_array_equal(run(model, **feed), run(before, **feed))


def test_a_new_constant_of_several_graphs_is_written_once():
    shared = gs.Constant("shared", np.float32([1, 1]))

    def script(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[1] = shared
        graph.nodes[1].attrs["then_branch"].nodes[0].inputs[1] = shared
        inner = graph.nodes[1].attrs["else_branch"].nodes[1].attrs["else_branch"]
        inner.nodes[0].inputs[0] = gs.Constant("own", np.float32([2, 2]))

    model = view(HEAD + BRANCHES)
    applied(model, script)
    owners = {v.name: graph.proto.name for graph in model.graphs() for v in graph.initializers}
    assert owners == {"shared": "g", "k": "e", "own": "ee"}


# -------------------------------------------------------------------------- scripts that do not


def clash(graph: gs.Graph) -> None:
    graph.tensors()["h"].name = "y"


def hide(graph: gs.Graph) -> None:
    graph.tensors()["h"].name = "r"  # a branch has an r of its own


def twins(graph: gs.Graph) -> None:
    one, other = (gs.Constant("twin", np.float32([number])) for number in (1, 2))
    graph.nodes[0].inputs = [one, other]


def dangle(graph: gs.Graph) -> None:
    del graph.nodes[0]


def odd_attribute(graph: gs.Graph) -> None:
    graph.nodes[0].attrs["bad"] = object()


def fails(graph: gs.Graph) -> None:
    raise ValueError("no Clip in this model")


def leaves(graph: gs.Graph) -> None:
    sys.exit(3)


def new_interface(graph: gs.Graph) -> None:
    graph.outputs[0].name = "another"


def fewer_inputs(graph: gs.Graph) -> None:
    graph.inputs[1].to_constant(np.float32([1, 2]))
    del graph.inputs[1]


def doubles(graph: gs.Graph) -> None:
    graph.tensors()["b"].values = np.float64([1, 2])


def deep(graph: gs.Graph) -> None:
    tensor = graph.inputs[1]
    for _ in range(2000):
        (tensor,) = graph.layer(op="Neg", inputs=[tensor], outputs=["n"])
    graph.nodes[0].inputs[0] = tensor
    graph.nodes.reverse()
    graph.toposort()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (clash, "y: two values of one name"),
        (hide, "r: the name of another value hides it in a body"),
        (twins, "twin: two constants of one name"),
        (dangle, "broken sources"),
        (odd_attribute, "h: bad: "),
        (fails, "it failed: ValueError: no Clip in this model"),
        (leaves, r"it wanted to end the program: exit\(3\)"),
        (new_interface, "inputs or outputs changed"),
        (fewer_inputs, "inputs or outputs changed"),
        (doubles, "double"),
        (deep, "RecursionError"),
        (lambda graph: 3, "a script gives a gs.Graph or None, not int"),
    ],
)
def test_scripts_that_break_a_model_are_refused_by_name(script, words, capsys):
    name = script.__name__
    with pytest.raises(PassError, match=words) as caught:
        compress(parse_model(HEAD + BRANCHES), Pipeline((GraphSurgeonPass(script),)))
    assert f"graphsurgeon({name})" in str(caught.value)
    assert caught.value.hint
    assert capsys.readouterr().out == ""


def test_what_training_refers_to_cannot_be_taken_away():
    proto = product()
    training = proto.training_info.add()
    training.algorithm.node.add(op_type="Neg", input=["v"], output=["less"])
    training.update_binding.add(key="v", value="less")
    model = from_proto(proto)
    with pytest.raises(InvalidError, match="v: training_info refers to it"):
        applied(model, lambda g: g.tensors()["v"].__setattr__("name", "other"))


def test_a_default_that_nothing_reads_any_more_is_told():
    text = "g (float[2] x, float[2] k) => (float[2] y) <float[2] k = {1, 2}> { y = Add(x, k) }"
    model = view(text)
    report = applied(model, lambda graph: graph.nodes[0].inputs.__setitem__(1, graph.inputs[0]))
    assert report.notes == ("nothing reads the input k any more",)
    assert [v.name for v, _ in model.graph.inputs] == ["x", "k"]
