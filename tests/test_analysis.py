"""Costs, shapes and ranges of small models, reckoned by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_compress.ir.analysis import Shapes, cost, eight_bit_snr
from onnx_compress.ir.analysis.macs import macs
from onnx_compress.ir.analysis.ranges import MAX_DB
from onnx_compress.ir.graph import from_proto, save, to_proto
from onnx_compress.ir.graph.inference import infer

from graphs import value, view


def zeros(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


SMALL = """(float[N,3,8,8] x) => (float[N,10] y) {
    c = Conv(x, w)  r = Relu(c)  f = Flatten(r)  y = Gemm(f, v, b) }"""


def small():
    return view(SMALL, w=zeros(4, 3, 3, 3), v=zeros(144, 10), b=zeros(10))


def test_every_figure_of_a_small_network(tmp_path):
    model = small()
    found = cost(model, {"x": zeros(2, 3, 8, 8)})
    numbers = 4 * 27 + 144 * 10 + 10
    source, inner, out = 2 * 3 * 64 * 4, 2 * 4 * 36 * 4, 2 * 10 * 4
    assert out < inner
    assert found.parameters == numbers
    assert found.weight_bytes == found.loaded_bytes == 4 * numbers
    assert found.macs == 2 * (4 * 36 * 27 + 144 * 10)
    assert found.activation_bytes == source + inner + inner  # the input stays with the caller
    assert found.working_bytes == found.loaded_bytes + found.activation_bytes
    assert found.unknown == 0
    assert found.file_bytes == save(model, tmp_path / "m.onnx")


def test_what_depends_on_a_size_that_is_not_given_is_counted_as_unknown():
    found = cost(small())
    assert found.macs == 0
    assert found.unknown == 2 + 4  # two products and four values
    assert found.weight_bytes == 4 * (4 * 27 + 144 * 10 + 10)


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        ("(float[1,6,5,5] x) => (float y) { y = Conv<group = 3>(x, w) }", {"w": (9, 2, 3, 3)},
         9 * 9 * 18),
        ("(float[1,6,5,5] x) => (float y) "
         "{ y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) }",
         {"w": (4, 6, 3, 3)}, 4 * 9 * 54),
        ("(float[2,6,5] x) => (float y) { y = ConvTranspose(x, w) }", {"w": (6, 4, 3)},
         2 * 6 * 5 * 4 * 3),
        ("(float[2,6,5] x) => (float y) { y = ConvTranspose<group = 2>(x, w) }", {"w": (6, 4, 3)},
         2 * 6 * 5 * 4 * 3),
        ("(float[3,6] x) => (float y) { y = Gemm(x, w) }", {"w": (6, 8)}, 3 * 6 * 8),
        ("(float[6,3] x) => (float y) { y = Gemm<transA = 1, transB = 1>(x, w) }", {"w": (8, 6)},
         3 * 6 * 8),
        ("(float[2,3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}, 2 * 3 * 6 * 8),
        ("(float[6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}, 6 * 8),
        ("(float[3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6,)}, 3 * 6),
        ("(float[2,3,6] x, float[2,6,4] z) => (float y) { y = MatMul(x, z) }", {}, 2 * 3 * 6 * 4),
        ("(float[5,2,3] x) => (float y) { y = LSTM<hidden_size = 4>(x, w, r) }",
         {"w": (1, 16, 3), "r": (1, 16, 4)}, 5 * 2 * 16 * (3 + 4)),
        ("(float[5,2,3] x) => (float y) "
         '{ y = GRU<hidden_size = 4, direction = "bidirectional">(x, w, r) }',
         {"w": (2, 12, 3), "r": (2, 12, 4)}, 5 * 2 * 2 * 12 * (3 + 4)),
        ("(float[0,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}, 0),
        ("(float[3,6] x) => (float y) { y = Relu(x) }", {}, 0),
    ],
)  # fmt: skip
def test_multiplications_of_every_operator(body, weights, expected):
    model = view(body, **{name: zeros(*shape) for name, shape in weights.items()})
    found = cost(model)
    assert found.macs == expected
    assert found.unknown == 0


def test_integer_products_count_like_those_of_floats():
    model = view("""(uint8[3,6] x, uint8[1,6,5] z) => (int32 y, int32 c) {
        y = MatMulInteger(x, w)  c = ConvInteger(z, k) }""",
        w=zeros(6, 8, dtype=np.int8), k=zeros(4, 6, 3, dtype=np.int8))  # fmt: skip
    assert cost(model).macs == 3 * 6 * 8 + 4 * 3 * 18


def test_products_of_packed_weights_count_what_they_stand_for():
    model = view(
        "(float[2,3,32] x) => (float y) "
        "{ y = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 32>(x, w, s) }",
        w=zeros(8, 1, 16, dtype=np.uint8), s=zeros(8),
    )  # fmt: skip
    (node,) = model.graph.nodes
    assert macs(node, Shapes(model)) == 2 * 3 * 32 * 8


def test_sub_byte_types_take_their_packed_bytes_and_strings_their_text():
    model = view("(float[2] x) => (float[2] y) { y = Relu(x) }", 21, 10, t=zeros(3, 2))
    proto = to_proto(model)
    for name, kind in (("a", "INT4"), ("b", "UINT4"), ("c", "FLOAT4E2M1")):
        tensor = helper.make_tensor(name, getattr(TensorProto, kind), [3, 3], [1] * 9)
        proto.graph.initializer.append(tensor)
    proto.graph.initializer.append(helper.make_tensor("d", TensorProto.FLOAT8E5M2, [5], [1] * 5))
    proto.graph.initializer.append(helper.make_tensor("e", TensorProto.BFLOAT16, [5], [1] * 5))
    proto.graph.initializer.append(helper.make_tensor("f", TensorProto.STRING, [2], [b"ab", b"c"]))
    proto.graph.initializer.append(helper.make_tensor("g", TensorProto.BOOL, [], [1]))
    found = cost(from_proto(proto))
    assert found.weight_bytes == 24 + 3 * 5 + 5 + 10 + 3 + 1
    assert found.parameters == 6 + 27 + 5 + 5 + 2 + 1


def test_numbers_in_constant_nodes_and_bodies_are_counted():
    model = view("""(bool c, float[2] x) => (float y) {
        k = Constant<value = float[2] {1, 2}>()  l = Constant<value_floats = [1.0, 2.0, 3.0]>()
        m = Constant<value_int = 3>()
        y = If (c) <then_branch = t () => (float r) <float[4] z = {1, 2, 3, 4}> { r = Add(x, k) },
            else_branch = e () => (float r) {
                q = Constant<value = float[2] {1, 2}>()  r = Add(x, q) }> }""")
    found = cost(model)
    assert found.parameters == 2 + 3 + 1 + 4 + 2
    assert found.weight_bytes == 4 * (2 + 3 + 4 + 2) + 8


# --------------------------------------------------------------------------- loaded, activations


def test_what_is_computed_from_constants_alone_is_folded_at_load():
    codes = zeros(8, 8, dtype=np.int8)
    model = view(
        """(float[1,8] x) => (float y) {
        c = Cast<to = 1>(q)  w = Mul(c, s)  e = MatMul(w, w)  y = MatMul(x, w) }""",
        q=codes, s=zeros(8, 1),
    )  # fmt: skip
    found = cost(model)
    assert found.weight_bytes == 64 + 32
    assert found.loaded_bytes == 4 * 64
    assert found.macs == 64
    assert found.activation_bytes == 2 * 32


def test_tables_that_are_gathered_from_stay_as_they_are_stored():
    model = view(
        "(int64[2] i) => (float y) { g = Gather(q, i)  c = Cast<to = 1>(g)  y = Mul(c, s) }",
        q=zeros(100, 8, dtype=np.int8), s=zeros(),
    )  # fmt: skip
    found = cost(model)
    assert found.loaded_bytes == 800 + 4
    assert found.activation_bytes == 16 + max(16 + 64, 64 + 64)


def test_random_numbers_are_not_folded():
    model = view(
        "(float[4] x) => (float[4] y) { n = RandomNormalLike(k)  y = Add(x, n) }", k=zeros(4)
    )
    found = cost(model)
    assert found.loaded_bytes == 16
    assert found.activation_bytes == 3 * 16


def test_a_value_lives_until_its_last_reader_and_an_output_for_ever():
    model = view("""(float[100] x) => (float[100] o, float[1] y) {
        o = Neg(x)  a = Abs(x)  b = Exp(a)  c = Relu(b)  d = Add(c, a)
        y = ReduceSum<keepdims = 1>(d) }""")
    assert cost(model).activation_bytes == 400 * (1 + 1 + 3)  # x, o, then a with c and d (or b)
    model = view("""(float[100] x) => (float[1] y) {
        a = Abs(x)  b = Exp(a)  c = Relu(b)  d = Neg(c)  y = ReduceSum<keepdims = 1>(d) }""")
    assert cost(model).activation_bytes == 400 * (1 + 2)


def test_only_the_larger_branch_counts_and_captures_live_through_it():
    model = view("""(bool c, float[100] x) => (float y) {
        h = Neg(x)  g = Abs(h)
        y = If (c) <then_branch = t () => (float[100] r) { p = Exp(h)  r = Abs(p) },
                    else_branch = e () => (float[1] r) { r = ReduceSum<keepdims = 1>(g) }> }""")
    found = cost(model, {"c": np.array(True), "x": zeros(100)})
    held = 1 + 400 + 400 + 400  # c, x, h, g
    assert held + 800 <= found.activation_bytes <= held + 800 + 400


def test_outputs_that_nothing_reads_die_at_once():
    model = view(
        """(float[100] x) => (float[50] y) {
        p, q = Split(x)  a, b = Split(x)  y = Add(a, b) }""",
        13,
    )
    assert cost(model).activation_bytes == 400 + 200 + 200 + 200


# ------------------------------------------------------------------------------------ shapes


def test_shapes_that_the_model_computes_are_observed():
    model = view("""(float[A,4] x) => (float y) {
        n = NonZero(x)  t = Transpose(n)  c = Cast<to = 1>(t)  y = MatMul(c, w) }""",
        w=zeros(2, 5))  # fmt: skip
    x = zeros(3, 4)
    x.flat[:6] = 1
    names = ("n", "t", "c", "y")
    without, observed = Shapes(model), Shapes(model, {"x": x})
    assert [without.shape(value(model, name)) for name in names] == [None] * 4
    found = [observed.shape(value(model, name)) for name in names]
    assert found == [(2, 6), (6, 2), (6, 2), (6, 5)]
    assert observed.nbytes(value(model, "n")) == 2 * 6 * 8
    assert cost(model, {"x": x}).macs == 6 * 2 * 5


def test_products_behind_an_operator_that_onnx_does_not_know_are_counted_with_a_feed():
    model = view(
        "(float[N,6] x) => (float[N,8] y) { g = com.microsoft.Gelu(x)  y = MatMul(g, w) }",
        w=zeros(6, 8),
    )
    found = cost(model, {"x": zeros(3, 6)})
    assert found.macs == 3 * 6 * 8


def test_a_model_that_does_not_run_keeps_what_was_inferred():
    model = view("(float[N,6] x) => (float y) { h = Relu(x)  y = com.microsoft.NoSuchOperator(h) }")
    shapes = Shapes(model, {"x": zeros(3, 6)})
    assert shapes.shape(value(model, "h")) == (3, 6)
    assert shapes.shape(value(model, "y")) is None
    assert shapes.shape(None) is None


def test_wrong_declarations_of_inner_values_and_outputs_are_not_believed():
    proto = to_proto(view("(float[2,6] x) => (float[9,9] y) { h = Relu(x)  y = MatMul(h, w) }",
                          w=zeros(6, 5)))  # fmt: skip
    proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, [7, 7]))
    model = from_proto(proto)
    before = to_proto(model)
    types = infer(model)
    assert types[value(model, "h")].shape == (2, 6)
    assert types[value(model, "y")].shape == (2, 5)
    assert to_proto(model) == before


def test_named_and_unknown_sizes_are_told_apart():
    model = view("(float[N,?,3] x) => (float y) { y = Relu(x) }")
    first, second, third = infer(model)[value(model, "y")].shape
    assert (first, third) == ("N", 3)
    assert not isinstance(second, int)
    assert infer(model)[value(model, "y")].static is None
    given = infer(model, {"x": (4, 5, 3)})
    assert given[value(model, "y")].static == (4, 5, 3)


def test_branches_with_the_same_inner_names_have_shapes_of_their_own():
    model = view("""(bool c, float[4,6] x) => (float y) {
        y = If (c) <
            then_branch = t () => (float r) { h = Transpose(x)  r = MatMul(h, v) },
            else_branch = e () => (float r) { h = Relu(x)  r = MatMul(h, w) }> }""",
        v=zeros(4, 10), w=zeros(6, 3))  # fmt: skip
    first, second = (body for node in model.graph.nodes for _, body in node.bodies)
    types = infer(model)
    shapes = [[types[n.output].shape for n in body.nodes] for body in (first, second)]
    assert shapes == [[(6, 4), (6, 10)], [(4, 6), (4, 3)]]
    assert cost(model).macs == 6 * 4 * 10 + 4 * 6 * 3


def test_weights_of_a_branch_do_not_take_the_shape_of_their_namesakes():
    model = view("""(bool c, float[4] x) => (float y) {
        h = Neg(x)
        y = If (c) <then_branch = t () => (float r) { s = Concat<axis = 0>(x, x)  r = Exp(s) },
                    else_branch = e () => (float r) { s = Abs(h)  r = Exp(s) }> }""")
    shapes = Shapes(model, {"c": np.array(True), "x": zeros(4)})
    (around,) = (node for node in model.graph.nodes if node.bodies)
    found = [shapes.shape(body.outputs[0][0]) for _, body in around.bodies]
    assert found == [(8,), (4,)]


def test_large_weights_take_part_in_inference_by_their_shape():
    model = view("(float[2,64] x) => (float y) { y = MatMul(x, w) }", w=zeros(64, 500))
    assert infer(model)[value(model, "y")].shape == (2, 500)


def test_sizes_of_packed_and_unsized_types():
    model = view(
        """(string[3] t, float[3] x) => (string[3] u, int4[3] y) {
        u = Identity(t)  y = Cast<to = 22>(x) }""",
        21,
        10,
    )
    shapes = Shapes(model)
    assert shapes.nbytes(value(model, "y")) == 2
    assert shapes.nbytes(value(model, "u")) is None


# ------------------------------------------------------------------------------------- ranges


def test_the_ratio_of_evenly_spread_numbers_is_that_of_the_formula():
    model = view("(float[1000] x) => (float[1000] y) { a = Identity(x)  y = Mul(a, k) }",
                 k=np.float32(3))  # fmt: skip
    x = np.linspace(0, 1, 1000, dtype=np.float32)
    asked = [value(model, name) for name in ("x", "a", "y")]
    found = eight_bit_snr(model, {"x": x}, asked)
    expected = 10 * np.log10(np.mean(x.astype(np.float64) ** 2) * 12 * 255**2)
    assert set(found) == set(asked)
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-5)


def test_one_number_far_from_all_others_lowers_the_ratio():
    model = view("(float[1000] x) => (float[1000] y) { y = Identity(x) }")
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    (y,) = model.outputs()
    usual = eight_bit_snr(model, {"x": x}, [y])[y]
    x[0] = 1000
    x[1:] *= 1000 / np.sqrt((x[1:] ** 2).sum()) / 10
    assert eight_bit_snr(model, {"x": x}, [y])[y] < usual - 10


def test_values_that_are_all_zero_or_that_cannot_be_observed():
    model = view("(float[4] x) => (float[4] y) { y = Identity(x) }")
    (y,) = model.outputs()
    assert eight_bit_snr(model, {"x": zeros(4)}, [y]) == {y: MAX_DB}
    assert eight_bit_snr(model, {"x": zeros(4) + np.inf}, [y]) == {}
    assert eight_bit_snr(model, {"x": zeros(5)}, [y]) == {}


def test_observing_leaves_the_model_as_it_was():
    model = small()
    before = to_proto(model)
    eight_bit_snr(model, {"x": zeros(1, 3, 8, 8)}, [value(model, name) for name in "crf"])
    cost(model, {"x": zeros(1, 3, 8, 8)})
    assert to_proto(model) == before
