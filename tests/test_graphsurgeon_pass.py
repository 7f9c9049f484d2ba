"""GraphSurgeonPass: what it reports, how it is shown, and where it stands in a pipeline."""

import functools
import subprocess
import sys

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto
from onnx.parser import parse_model
from test_graphsurgeon_scripts import applied, insert_node

from onnx_compress import compress
from onnx_compress.ir.errors import InvalidError, OrderError, PassError
from onnx_compress.ir.graph import clone, from_proto, to_proto
from onnx_compress.ir.graph.invariants import check
from onnx_compress.passes import GraphSurgeonPass, Phase, Pipeline
from onnx_compress.passes.quant import Quant

from graphs import BRANCHES, HEAD, product, value, view, weight


def test_a_report_names_what_changed_and_is_bounded():
    def script(graph: gs.Graph) -> None:
        graph.tensors()["w"].values = weight(3)
        first, second = graph.nodes
        first.attrs["new"] = 3
        old = list(second.outputs)
        second.outputs = []
        graph.nodes.remove(second)
        mid = graph.layer(op="MatMul", name="again", inputs=second.inputs, outputs=["m"])[0]
        for number in range(50):
            mid = graph.layer(op="Neg", name=f"neg {number}", inputs=[mid], outputs=["n"])[0]
        graph.layer(op="Identity", name="last", inputs=[mid], outputs=old)

    model = from_proto(product())
    report = applied(model, script)
    text = {entry.subject: entry.text for entry in report.changes}
    assert (text["w"], text["h"], text["y"]) == ("weight replaced", "node changed", "node removed")
    assert (text["again"], text["32 more"]) == ("node added", "node added")
    assert len(report.changes) < 30
    assert report.summary == "52 nodes added, 1 node removed, 1 node changed, 1 weight replaced"
    np.testing.assert_array_equal(model.constant(value(model, "w")), weight(3))


def test_a_change_of_nothing_but_types_is_one():
    def script(graph: gs.Graph) -> None:
        graph.tensors()["h"].dtype = np.float32

    model = from_proto(product())
    assert applied(model, script).modified
    assert [info.name for info in to_proto(model).graph.value_info] == ["h"]


def clip_to_6(graph: gs.Graph) -> None:
    print("Relu is Clip(0, 6)")  # noqa: T201
    for node in graph.nodes:
        if node.op == "Relu":
            node.op, low, high = "Clip", np.float32(0), np.float32(6)
            node.inputs.extend([gs.Constant(f"{node.name}_low", np.array(low)),
                                gs.Constant(f"{node.name}_high", np.array(high))])  # fmt: skip


def test_the_example_is_compressed_with_a_script_in_the_pipeline(
    digits, few_digits, tmp_path, capsys
):
    passes = Pipeline((GraphSurgeonPass(clip_to_6), Quant(bits=8)))
    out = tmp_path / "out.onnx"
    result = compress(digits, passes, few_digits, out=out, measure=False)
    script, quant = result.report.stages
    assert (script.name, script.failure) == ("graphsurgeon(clip_to_6)", "")
    assert {"nodes changed", "weights added"} <= {
        " ".join(part.split()[1:]) for part in script.report.summary.split(", ")
    }
    assert quant.report.modified
    operators = {node.op_type for node in onnx.load(out).graph.node}
    assert "Clip" in operators
    assert "Relu" not in operators
    assert out.stat().st_size < digits.stat().st_size / 3
    assert capsys.readouterr().out == "Relu is Clip(0, 6)\n"


def test_a_script_that_changes_nothing_leaves_the_file_as_it_is(digits, tmp_path):
    out = tmp_path / "out.onnx"
    result = compress(digits, Pipeline((GraphSurgeonPass(gs.Graph.toposort),)), out=out)
    assert result.report.unchanged
    assert out.read_bytes() == digits.read_bytes()


def test_a_script_that_promises_the_same_outputs_is_held_to_it():
    def halve(graph: gs.Graph) -> None:
        graph.tensors()["w"].values = graph.tensors()["w"].values / 2

    with pytest.raises(PassError, match="an exact pass changed the outputs"):
        compress(product(), Pipeline((GraphSurgeonPass(halve, exact=True),)))
    exact = GraphSurgeonPass(insert_node, exact=True)
    assert compress(product(), Pipeline((exact,))).report.stages[0].report.modified
    assert GraphSurgeonPass(insert_node).exact is False


def test_it_is_shown_with_its_function_and_stands_where_it_is_told():
    late = GraphSurgeonPass(functools.partial(clip_to_6), phase=Phase.ENCODE, exact=True)
    assert str(late) == "graphsurgeon(clip_to_6, exact=true, phase=encode)"
    assert str(Pipeline((Quant(bits=8), late))) == f"quant(bits=8),{late}"
    with pytest.raises(OrderError, match=r"graphsurgeon\(clip_to_6\)"):
        Pipeline((Quant(bits=8), GraphSurgeonPass(clip_to_6)))


def test_alone_it_takes_and_gives_any_kind_of_model():
    out = GraphSurgeonPass(insert_node)(product())
    assert isinstance(out, ModelProto)
    assert [node.op_type for node in out.graph.node] == ["MatMul", "MatMul", "Neg", "Neg"]
    assert isinstance(GraphSurgeonPass(insert_node)(gs.import_onnx(product())), gs.Graph)


def test_graphsurgeon_is_imported_when_a_script_runs():
    code = "import onnx_compress.passes as p, sys; p.GraphSurgeonPass(print); "
    code += "print('onnx_graphsurgeon' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "False", done.stderr


def test_a_model_becomes_another_and_shares_nothing_with_it():
    one, other = from_proto(product()), view(HEAD + BRANCHES)
    before = clone(one)
    edits, storage = max(one.edits, other.edits), other.storage
    one.become(other)
    assert (to_proto(one), to_proto(other)) == (parse_model(HEAD + BRANCHES), product())
    assert one.storage is storage
    assert one.edits > edits
    one.rename(value(one, "h"), "w")  # free here
    with pytest.raises(InvalidError, match="taken"):
        other.rename(value(other, "h"), "w")
    one.become(one)
    for model in (one, other, before):
        check(model)
    assert to_proto(before) == to_proto(other) == product()
