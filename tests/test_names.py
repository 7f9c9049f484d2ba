"""Names: one value each, fresh ones, and renaming."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import SparseTensorProto, TensorProto, helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import from_proto, to_proto

from graphs import BRANCHES, HEAD, after, run, value, view


@pytest.mark.parametrize(
    "body",
    [
        "(float[2] x) => (float[2] y) { y = Relu(x)  y = Abs(x) }",
        "(float[2] x) => (float[2] y) { x = Relu(x)  y = Abs(x) }",
        "(float[2] x) => (float[2] y) <float[2] y = {1, 2}> { y = Abs(x) }",
        "(float[2] x) => (float[2] y) <float[2] w = {1,2}, float[2] w = {3,4}> { y = Add(x, w) }",
        "(float[2] x, float[2] x) => (float[2] y) { y = Relu(x) }",
        "(float[2] x) => (float[1] y) { y, y = Split(x) }",
        "(float[2] x) => (float[2] y) { y = a.f(x) } <domain: \"a\", opset_import: [\"\" : 17]> "
        "f (p) => (q) { q = Relu(p)  q = Abs(p) }",
    ],
)  # fmt: skip
def test_two_values_of_one_name_are_refused(body):
    with pytest.raises(InvalidError, match="name"):
        from_proto(parse_model(HEAD + "g " + body))


def test_a_sparse_and_a_dense_initializer_of_one_name_are_refused():
    proto = parse_model(
        HEAD + "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
    )
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(
        SparseTensorProto(values=values, indices=indices, dims=[2])
    )
    with pytest.raises(InvalidError, match="name"):
        from_proto(proto)


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "", "b"]), max_size=30))
def test_fresh_names_are_new_and_start_with_their_stem(stems):
    model = view("g (float[2] a) => (float[2] a_1) { a_1 = Relu(a) }")
    made = [model.fresh(stem) for stem in stems]
    assert len({*made, "a", "a_1"}) == len(made) + 2
    assert all(name.startswith(stem) for name, stem in zip(made, stems, strict=True))


def test_fresh_names_avoid_those_of_bodies_and_functions():
    model = view(
        HEAD
        + """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = a () => (float[2] inner) { inner = Abs(x) },
                        else_branch = b () => (float[2] r) { r = l.f(x) }>
        } <domain: "l", opset_import: ["" : 17]> f (p) => (q) { deep = Abs(p)  q = Neg(deep) }"""
    )
    assert model.fresh("inner") != "inner"
    assert model.fresh("deep") != "deep"


def test_renaming_reaches_every_place_that_writes_the_name():
    proto = parse_model(HEAD + BRANCHES)
    note = proto.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, [2]))
    model = from_proto(proto)
    model.rename(value(model, "h"), "hidden")
    model.rename(value(model, "b"), "bias")
    text = to_proto(after(model)).graph
    assert [i.name for i in text.value_info] == ["hidden"]
    assert text.quantization_annotation[0].tensor_name == "hidden"
    assert text.quantization_annotation[0].quant_parameter_tensor_names[0].value == "bias"
    x = np.float32([1, 2])
    for c in (True, False):
        np.testing.assert_array_equal(
            run(model, c=c, x=x), run(parse_model(HEAD + BRANCHES), c=c, x=x)
        )


def test_names_of_the_interface_and_taken_names_are_refused():
    model = view(BRANCHES)
    for name in "xy":
        with pytest.raises(InvalidError, match="interface"):
            model.rename(value(model, name), "new")
    with pytest.raises(InvalidError, match="taken"):
        model.rename(value(model, "h"), "q")
    with pytest.raises(InvalidError):
        model.rename(value(model, "h"), "")
