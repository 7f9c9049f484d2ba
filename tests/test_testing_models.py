"""models(): what it draws is valid, obeys its arguments, reaches every operator, and shrinks."""

import re
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnx_compress.bench.drawn import drawn, used, wrong
from onnx_compress.ir.graph import from_proto
from onnx_compress.ir.runtime import Session
from onnx_compress.testing import examples, feed_of, feeds, models, operators
from onnx_compress.testing.feeds import KINDS
from onnx_compress.testing.specs import SPECS

from conftest import ROOT

FLOATS = ("float32", "float16", "float64")
ANY = models(dtypes=FLOATS, opsets=(11, 23), functions=True, max_nodes=8)
QUICK = settings(max_examples=500, database=None, derandomize=True)
BLOCKS = sorted(spec.block for spec in SPECS if spec.block)


def opset(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if not entry.domain)


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from all_graphs(body)


def inner_nodes(model: ModelProto) -> list[NodeProto]:
    return [node for graph in list(all_graphs(model.graph))[1:] for node in graph.node]


def bodies(node: NodeProto) -> list[GraphProto]:
    return [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def dims(info: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]


# --------------------------------------------------------------------------------------- validity


@examples(60)
@given(models())
def test_models_pass_the_checker_and_load_and_run_with_and_without_optimizations(model):
    assert wrong(model) == ""


@examples(60)
@given(ANY)
def test_so_do_those_of_all_types_operator_sets_and_with_functions(model):
    assert wrong(model) == ""


@pytest.mark.slow
@settings(max_examples=1500)
@given(models(dtypes=FLOATS, opsets=(11, 23), functions=True, max_nodes=30))
def test_so_do_many_of_thirty_steps(model):
    assert wrong(model) == ""


@examples(60)
@given(models(opsets=(11, 23)))
def test_declared_outputs_are_what_shape_inference_finds(model):
    bare = ModelProto()
    bare.CopyFrom(model)
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True)
    for ours, theirs in zip(model.graph.output, inferred.graph.output, strict=True):
        assert ours.type.tensor_type.elem_type == theirs.type.tensor_type.elem_type
        if not theirs.type.tensor_type.HasField("shape"):
            continue  # it knows of none behind a computed shape
        for one, other in zip(dims(ours), dims(theirs), strict=True):
            # what it cannot tell it calls 0, or unk__ and a number
            assert one == other or other == 0 or str(other).startswith("unk__")


@examples(60)
@given(models(dtypes=FLOATS))
def test_numbers_of_ordinary_inputs_stay_ordinary(model):
    found = from_proto(model)
    for array in Session(found, optimize=False).run(feed_of(found, "normal", 3)):
        if array.dtype.kind == "f":
            assert np.isfinite(array).all()


@pytest.mark.parametrize("kind", KINDS)
def test_models_run_on_every_kind_of_feed(kind):
    @settings(max_examples=15)
    @given(st.data())
    def runs(data: st.DataObject) -> None:
        model = data.draw(models(functions=True, dtypes=FLOATS))
        feed = data.draw(feeds(model, (kind,)))
        assert set(feed) == {info.name for info in model.graph.input}
        Session(from_proto(model)).run(feed)

    runs()


@examples(30)
@given(models())
def test_models_and_their_nodes_say_something_of_themselves(model):
    assert model.producer_name
    assert model.doc_string
    assert model.graph.name
    assert model.graph.doc_string
    assert model.metadata_props
    assert any(node.doc_string for node in model.graph.node)
    assert all(node.name for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@examples(60)
@given(ANY)
def test_every_input_and_weight_is_read_or_is_the_first_input(model):
    read = {name for g in all_graphs(model.graph) for node in g.node for name in node.input}
    for graph in all_graphs(model.graph):
        assert {tensor.name for tensor in graph.initializer} <= read
    assert {info.name for info in model.graph.input[1:]} <= read


# -------------------------------------------------------------------------------------- arguments


@examples(40)
@given(models(dynamic=False))
def test_closed_models_have_no_open_dimension(model):
    infos = (*model.graph.input, *model.graph.output)
    assert all(isinstance(dim, int) and dim > 0 for info in infos for dim in dims(info))


@examples(40)
@given(models())
def test_only_the_first_dimension_is_ever_open_and_it_is_called_n(model):
    for info in (*model.graph.input, *model.graph.output):
        assert all(isinstance(dim, int) for dim in dims(info)[1:])
        assert all(dim == "N" for dim in dims(info)[:1] if isinstance(dim, str))


def test_both_open_and_closed_models_are_drawn():
    assert {"N" in dims(model.graph.input[0]) for model in drawn(models(), 40)} == {True, False}


@examples(40)
@given(models(subgraphs=False))
def test_without_subgraphs_no_node_has_a_body(model):
    assert len(list(all_graphs(model.graph))) == 1


@pytest.mark.parametrize("op", ["If", "Loop"])
def test_with_subgraphs_there_are_bodies_which_capture_and_which_have_weights_of_their_own(op):
    some = list(drawn(models(ops=[op, "Add", "PRelu"], max_nodes=3), 40))
    inner = [list(all_graphs(model.graph))[1:] for model in some]
    stored = [{tensor.name for tensor in model.graph.initializer} for model in some]
    assert any(graph.initializer for graphs in inner for graph in graphs)
    assert any(
        name in outer
        for graphs, outer in zip(inner, stored, strict=True)
        for graph in graphs
        for node in graph.node
        for name in node.input
    )


def test_bodies_may_stand_in_bodies():
    some = drawn(models(ops=["If", "Relu"], max_nodes=3), 30)
    deep = [m for m in some if any(map(bodies, inner_nodes(m)))]
    assert deep
    assert set(map(wrong, deep)) == {""}


@examples(40)
@given(models(functions=True, subgraphs=False))
def test_functions_are_called_and_defined(model):
    called = {(node.domain, node.op_type) for node in model.graph.node if node.domain}
    assert called == {(function.domain, function.name) for function in model.functions}
    assert called or not all(all(node.input) for node in model.graph.node)


def test_a_function_may_be_called_twice():
    some = list(drawn(models(functions=True, ops=["Relu"], max_nodes=4), 40))
    assert all(len(model.functions) == 1 for model in some)
    assert any(sum(bool(node.domain) for node in model.graph.node) > 1 for model in some)


def test_a_value_that_is_read_may_be_an_output_too():
    def has_one(model: ModelProto) -> bool:
        read = {name for node in model.graph.node for name in node.input}
        return any(info.name in read for info in model.graph.output)

    assert {has_one(model) for model in drawn(models(), 60)} == {True, False}


@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_are_of_the_type_asked_for(dtype):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for model in drawn(models(dtypes=(dtype,)), 20, 1):
        kinds = {info.type.tensor_type.elem_type for info in model.graph.input}
        assert element in kinds <= {element, TensorProto.INT64, TensorProto.BOOL}


@pytest.mark.parametrize("version", range(11, 24))
def test_operator_sets_are_kept_to(version):
    for model in drawn(models(opsets=(version, version), max_nodes=6), 12, version):
        assert opset(model) == version
        assert wrong(model) == ""


def test_operator_sets_are_drawn_from_the_whole_range():
    found = {opset(model) for model in drawn(models(max_nodes=1), 150)}
    assert {13, 21} <= found <= set(range(13, 22))
    assert len(found) > 5


@pytest.mark.parametrize("most", [1, 2, 5])
def test_there_are_no_more_steps_than_asked_for(most):
    single = ["Gemm", "Relu", "Transpose", "Split", "Conv", "Softmax"]
    found = {len(model.graph.node) for model in drawn(models(ops=single, max_nodes=most), 60)}
    assert found <= set(range(1, most + 1))
    assert {1, most} <= found


# -------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("op", operators())
def test_every_operator_can_be_asked_for_and_comes_with_no_more_than_it_needs(op):
    found: set[str] = set()
    needed = min((s.operators for s in SPECS if op in s.operators), key=len)
    for model in drawn(models(ops=[op], opsets=(11, 23), max_nodes=3), 5):
        assert used(model) <= set(needed)
        assert wrong(model) == ""
        found |= used(model)
    assert op in found


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_can_be_asked_for_and_has_the_operators_that_it_declares(block):
    (spec,) = (spec for spec in SPECS if spec.block == block)
    for model in drawn(models(ops=[block], max_nodes=2), 12):
        assert used(model) <= set(spec.operators)
        assert wrong(model) == ""


@examples(40)
@given(models(ops=["Gemm", "Relu", "If", "Concat"]))
def test_in_bodies_too_there_is_only_what_was_asked_for(model):
    assert used(model) <= {"Gemm", "Relu", "Concat", "If", "Greater", "ReduceMean", "Identity"}


def test_two_hundred_models_have_sixty_operators():
    seen = set().union(*map(used, drawn(models(), 200, 9)))
    assert len(seen) >= 60


# -------------------------------------------------------------------------------------- shrinking


@pytest.mark.parametrize("op", ["MatMul", "Conv", "Gemm", "Gather", "BatchNormalization", "If"])
def test_the_smallest_model_with_an_operator_has_one_step_and_small_sizes(op):
    smallest = find(models(), lambda model: op in used(model), settings=QUICK)
    assert len(smallest.graph.node) == 1
    assert opset(smallest) == 21
    sizes = [dim for tensor in smallest.graph.initializer for dim in tensor.dims]
    assert max(sizes, default=1) <= 4
    assert all(dim in (1, "N") for info in smallest.graph.input for dim in dims(info))


def test_the_smallest_model_with_a_wide_product_is_no_wider():
    def wide(model: ModelProto) -> bool:
        sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        return any(
            node.op_type == "MatMul" and sizes.get(node.input[1], [0])[-1] > 5
            for node in model.graph.node
        )

    smallest = find(models(), wide, settings=QUICK)
    assert [node.op_type for node in smallest.graph.node] == ["MatMul"]
    assert list(smallest.graph.initializer[0].dims) == [1, 6]


def test_equal_seeds_give_equal_bytes():
    one, other = (
        [m.SerializeToString(deterministic=True) for m in drawn(ANY, 30, 11)] for _ in range(2)
    )
    assert one == other
    assert len(set(one)) > 20


@settings(max_examples=100, suppress_health_check=[])
@given(ANY)
def test_hypothesis_finds_them_healthy(model):
    """Not too slow, not too large, not too many thrown away."""
    assert model.graph.node


def test_no_strategy_filters():
    for path in (ROOT / "tools" / "testing").rglob("*.py"):
        assert not re.search(r"\bassume\(|\.filter\(|\breject\(", path.read_text()), path


# ----------------------------------------------------------------------------------- the impossible


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ops": ["MatMull", "Relu"]}, "not in the table: MatMull"),
        ({"ops": []}, "nothing asked for takes float32"),
        ({"ops": ["If"], "subgraphs": False}, "nothing asked for takes float32"),
        ({"ops": ["RMSNormalization"]}, "operator sets 13 to 21"),
        ({"ops": ["Conv"], "dtypes": ("float16",)}, "nothing asked for takes float16"),
        ({"ops": ["Conv"], "dtypes": ("float32", "float64")}, "takes float64"),
        ({"dtypes": ("bfloat16",)}, "inputs are of float32, float16, float64, not bfloat16"),
        ({"dtypes": ()}, "not nothing"),
        ({"opsets": (10, 13)}, "operator sets 10 to 13 are not drawn, 11 to 23 are"),
        ({"opsets": (13, 24)}, "are not drawn"),
        ({"opsets": (15, 13)}, "are not drawn"),
        ({"max_nodes": 0}, "at least one node, not 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(asked, said):
    with pytest.raises(ValueError, match=said):
        models(**asked)


def test_operators_of_some_operator_sets_alone_are_drawn_in_those():
    assert {opset(model) for model in drawn(models(ops=["Gelu"]), 30)} == {20, 21}
    assert {opset(m) for m in drawn(models(ops=["GroupNormalization"]), 10)} == {21}
