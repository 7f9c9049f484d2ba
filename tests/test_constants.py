"""Constants: read wherever they are kept, and set."""

import numpy as np
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import clone, from_proto, to_proto

from graphs import BRANCHES, HEAD, after, run, value, view


def test_constants_are_read_wherever_they_are_kept():
    model = view("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        a = Constant<value = float[2] {3, 4}>()
        b = Constant<value_floats = [5.0, 6.0]>()
        c = Constant<value_float = 7.0>()
        d = Constant<value_ints = [8, 9]>()
        e = Constant<value_int = 10>()
        i = Identity(w)
        y = Sum(x, w, a, b, c)
    }""")
    found = {name: model.constant(value(model, name)) for name in "wabcdeix"}
    assert found.pop("i") is None
    assert found.pop("x") is None
    assert {n: a.tolist() for n, a in found.items()} == {
        "w": [1, 2], "a": [3, 4], "b": [5, 6], "c": 7, "d": [8, 9], "e": 10
    }  # fmt: skip
    assert [found[n].dtype for n in "bcde"] == [np.float32, np.float32, np.int64, np.int64]
    assert model.constant(None) is None


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers_and_sparse_constant_nodes_are_read(flat):
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = [1, 5] if flat else [0, 1, 1, 1]
    indices = helper.make_tensor("", TensorProto.INT64, [2] if flat else [2, 2], places)
    sparse = SparseTensorProto(values=values, indices=indices, dims=[2, 4])
    proto = parse_model(HEAD + "g (float[N,2] x) => (float[N,4] y) { y = MatMul(x, w) }")
    kept = ModelProto()
    kept.CopyFrom(proto)
    kept.graph.sparse_initializer.append(sparse)
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    for model in (from_proto(kept), from_proto(proto)):
        w = model.constant(value(model, "w"))
        np.testing.assert_array_equal(w, [[0, 1, 0, 0], [0, 2, 0, 0]])
        np.testing.assert_array_equal(run(model, x=np.float32([[1, 1]]))[0], [[0, 3, 0, 0]])
        model.set_constant(value(model, "w"), w * 2)
        np.testing.assert_array_equal(run(after(model), x=np.float32([[1, 1]]))[0], [[0, 6, 0, 0]])


def test_an_empty_sparse_tensor_and_a_scalar_are_read():
    proto = parse_model(HEAD + "g (float[2] x) => (float[2] y) <float s = {3}> { y = Mul(x, s) }")
    sparse = SparseTensorProto(
        values=helper.make_tensor("z", TensorProto.FLOAT, [0], []),
        indices=helper.make_tensor("", TensorProto.INT64, [0], []),
        dims=[2, 3],
    )
    proto.graph.sparse_initializer.append(sparse)
    model = from_proto(proto)
    np.testing.assert_array_equal(model.constant(value(model, "z")), np.zeros((2, 3)))
    assert model.constant(value(model, "s")).shape == ()


ELEMENTS = """FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 UINT8 INT16 INT64 BOOL INT4 UINT4 FLOAT8E4M3FN
    FLOAT8E5M2 FLOAT4E2M1 STRING COMPLEX64""".split()


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (101, 97)])
def test_numbers_of_every_type_and_size_survive_being_set_and_written(element, shape):
    kind = getattr(TensorProto, element)
    old = helper.make_tensor("w", kind, [1], [b"a" if element == "STRING" else 1])
    proto = parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.initializer.append(old)
    proto.graph.initializer[0].doc_string = "doc"
    model = from_proto(proto)
    w = value(model, "w")
    source = np.random.default_rng(0).integers(0, 2, shape)
    dtype = model.constant(w).dtype
    new = (
        np.array([str(n) for n in source.ravel()], object).reshape(shape)
        if element == "STRING"
        else source.astype(dtype)
    )
    model.set_constant(w, new)
    np.testing.assert_array_equal(model.constant(w), new)
    (written,) = to_proto(model).graph.initializer
    assert (written.data_type, written.doc_string, written.name) == (kind, "doc", "w")
    got = numpy_helper.to_array(written)
    np.testing.assert_array_equal(got.astype(str) if element == "STRING" else got, new)


def test_numbers_in_any_memory_layout_are_stored_in_order():
    model = view(
        "g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul(x, w) }".replace(
            "<float[4,3] w>", "<float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>"
        )
    )
    w = value(model, "w")
    new = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))[::-1]
    model.set_constant(w, new)
    np.testing.assert_array_equal(model.constant(w), new)
    np.testing.assert_array_equal(numpy_helper.to_array(to_proto(model).graph.initializer[0]), new)


def test_another_element_type_is_refused():
    model = view(BRANCHES)
    with pytest.raises(InvalidError, match="INT64 given where FLOAT"):
        model.set_constant(value(model, "b"), np.array([1, 2]))
    with pytest.raises(InvalidError, match="no constant"):
        model.set_constant(value(model, "h"), np.float32([1, 2]))


@pytest.mark.parametrize(
    ("attribute", "new"),
    [
        ("value = float[2] {3, 4}", np.float32([5, 6])),
        ("value_floats = [3.0, 4.0]", np.float32([5, 6])),
        ("value_float = 3.0", np.float32(5)),
    ],
)
def test_a_constant_node_can_be_set_however_it_is_spelled(attribute, new):
    model = view(f"g (float[2] x) => (float[2] y) {{ w = Constant<{attribute}>()  y = Add(x, w) }}")
    model.set_constant(value(model, "w"), new)
    np.testing.assert_array_equal(model.constant(value(model, "w")), new)
    got = run(after(model), x=np.float32([1, 1]))
    np.testing.assert_array_equal(got[0], np.float32([1, 1]) + new)


def test_the_other_copies_keep_their_numbers_when_one_is_set():
    first = view(
        "g (float[2] x) => (float[2] y) { w = Constant<value = float[2] {3, 4}>() y = Add(x, w) }"
    )
    second = clone(first)
    second.set_constant(value(second, "w"), np.float32([9, 9]))
    assert first.constant(value(first, "w")).tolist() == [3, 4]
