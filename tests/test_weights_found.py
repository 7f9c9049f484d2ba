"""Finding weights: wherever they are kept, and what is left alone."""

import numpy as np
from onnx import SparseTensorProto, TensorProto, helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import clone, from_proto
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.weights import find_weights

from graphs import array, only, parsed, view

# --------------------------------------------------------------------------- where it is kept


def test_initializers_constant_nodes_and_sparse_ones_are_weights():
    w = array(3, 4)
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [7])
    proto = parsed("""(float[2,3] x) => (float y) {
        c = Constant<value = float[4, 2] {1, 2, 3, 4, 5, 6, 7, 8}>()
        p = MatMul(x, w)  q = MatMul(p, c)  y = MatMul(q, s) }""", w=w)  # fmt: skip
    sparse = SparseTensorProto(values=values, indices=indices, dims=[2, 4])
    proto.graph.sparse_initializer.append(sparse)
    found = {weight.name: weight for weight in find_weights(from_proto(proto))}
    assert {name: weight.kept for name, weight in found.items()} == {
        "w": "initializer", "c": "Constant node", "s": "initializer"
    }  # fmt: skip
    assert found["w"].shape == (3, 4)
    assert (found["w"].size, found["w"].nbytes, found["w"].dtype) == (12, 48, "FLOAT")
    np.testing.assert_array_equal(found["w"].array(), w)
    np.testing.assert_array_equal(found["s"].array(), [[0, 0, 0, 0], [0, 0, 0, 2]])


def test_floats_of_a_constant_node_behind_a_reshape_are_a_weight():
    model = view("""(float[1,2] x) => (float y) {
        f = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
        s = Constant<value_ints = [2, -1]>()
        w = Reshape(f, s)  y = MatMul(x, w) }""")  # fmt: skip
    weight = only(model)
    assert (weight.name, weight.shape, weight.uses[0].path.shape) == ("f", (4,), (2, 2))


def test_weights_in_branches_and_loops_are_found_at_any_depth():
    model = view("""(bool c, int64 n, float[2,2] x) => (float y, float z) {
        y = If (c) <
            then_branch = t () => (float r) <float[2,2] k = {1, 2, 3, 4}> { r = MatMul(x, k) },
            else_branch = e () => (float r) {
                k = Constant<value = float[2,2] {1, 2, 3, 4}>()
                a = MatMul(x, k)  r = MatMul(a, w) }
        >
        z = Loop(n, , x) <body = l (int64 i, bool go, float[2,2] s) => (bool g, float[2,2] o) {
            g = Identity(go)  o = Gemm<transB = 1>(s, w) }>
    }""", w=array(2, 2))  # fmt: skip
    found = [(w.name, w.kept, [u.node.op for u in w.uses]) for w in find_weights(model)]
    assert sorted(found) == [
        ("k", "Constant node in a branch", ["MatMul"]),
        ("k", "initializer in a branch", ["MatMul"]),
        ("w", "initializer", ["MatMul", "Gemm"]),
    ]


# ---------------------------------------------------------------------------------- left alone


def reasons(model) -> dict[str, str]:
    assert not find_weights(model).weights
    return {skipped.name: skipped.reason for skipped in find_weights(model).skipped}


def test_what_is_left_alone_is_told_with_the_reason():
    w = array(4, 4)
    matmul = "{ y = MatMul(x, w) }"
    assert (
        "override" in reasons(view(f"(float[2,4] x, float[4,4] w) => (float y) {matmul}", w=w))["w"]
    )
    assert (
        "gives it out"
        in reasons(view(f"(float[2,4] x) => (float y, float[4,4] w) {matmul}", w=w))["w"]
    )
    assert "rank 1" in reasons(view(f"(float[2,4] x) => (float y) {matmul}", w=w[0]))["w"]
    assert "rank 2" in reasons(view("(float[1,4,5] x) => (float y) { y = Conv(x, w) }", w=w))["w"]
    assert (
        "3 groups"
        in reasons(
            view("(float[1,4,5] x) => (float y) { y = Conv<group = 3>(x, w) }", w=array(4, 4, 1))
        )["w"]
    )
    coded = view("(float[2,4] x) => (float y) { d = Cast<to = 1>(w)  y = MatMul(x, d) }",
                 w=w.astype(np.int8))  # fmt: skip
    assert "INT8" in reasons(coded)["d"]
    dequantized = view("""(float[2,4] x) => (float y) {
        s = Constant<value_float = 0.5>()  d = DequantizeLinear(w, s)  t = Transpose(d)
        y = MatMul(x, t) }""", w=w.astype(np.int8))  # fmt: skip
    assert "already quantized" in reasons(dequantized)["t"]
    assert reasons(view("(float[2,4] x, float[4,4] z) => (float y) { y = MatMul(x, z) }")) == {}


def test_weights_of_version_three_are_not_overridable():
    model = view(
        "(float[2,4] x, float[4,4] w) => (float y) { y = MatMul(x, w) }", 8, 3, w=array(4, 4)
    )
    assert only(model).name == "w"


def test_functions_are_left_alone():
    model = from_proto(
        parse_model("""<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        g (float[2,2] x) => (float y) { y = l.f(x) }
        <domain: "l", opset_import: ["" : 17]> f (p) => (q) {
            k = Constant<value = float[2,2] {1, 2, 3, 4}>()  q = MatMul(p, k) }""")
    )
    assert "function" in reasons(model)["f/q"]


def test_half_and_bfloat_and_double_are_weights_and_strings_are_not():
    for kind in ("FLOAT16", "BFLOAT16", "DOUBLE"):
        dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
        model = view(
            "(float[2,4] x) => (float y) { c = Cast<to = 1>(w)  y = MatMul(x, c) }",
            w=array(4, 4).astype(dtype),
        )
        assert only(model).dtype == kind
    for kind in ("FLOAT8E4M3FN", "INT4", "UINT4"):
        dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
        model = view("(int64 i) => (float y) { g = Gather(w, i)  y = Cast<to = 1>(g) }",
                     21, 10, w=np.ones((4, 4)).astype(dtype))  # fmt: skip
        assert "already quantized" in reasons(model)["w"]


def test_zero_sized_weights_do_not_stand_in_the_way():
    for shape in ((0, 4), (4, 0), (0, 0)):
        model = view("(float x) => (float y) { y = MatMul(x, w) }", w=np.zeros(shape, np.float32))
        weight = only(model)
        assert (weight.size, weight.nbytes) == (0, 0)
        assert weight.uses[0].matrix(weight.array()).size == 0


def test_weights_come_in_the_order_of_the_nodes_and_belong_to_their_copy():
    model = view("(float[2,4] x) => (float y) { a = MatMul(x, v)  y = MatMul(a, w) }",
                 w=array(4, 4), v=array(4, 4))  # fmt: skip
    assert [weight.name for weight in find_weights(model)] == ["v", "w"]
    copy = clone(model)
    assert [weight.name for weight in find_weights(copy)] == ["v", "w"]
    mine = {weight.value for weight in find_weights(model)}
    assert not mine & {weight.value for weight in find_weights(copy)}


def test_uses_come_as_data_flow_whatever_the_order_of_the_nodes():
    first, second = "a = MatMul(x, w)", "b = MatMul(w, z)"
    found = []
    for lines in (f"{first}  {second}", f"{second}  {first}"):
        model = view(
            f"(float[4,4] x, float[4,4] z) => (float y) {{ {lines}  y = Add(a, b) }}", w=array(4, 4)
        )
        found.append([use.slot for use in only(model).uses])
    assert found == [[1, 0], [1, 0]]


def test_an_empty_optional_weight_slot_is_no_weight():
    model = view("(float[2,4] x) => (float y) { y = Gemm(x, w, ) }", w=array(4, 4))
    assert [use.slot for use in only(model).uses] == [1]
    assert not No("why")
