"""Finding weights: every operator, wherever they are kept, what is between; and their layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.graph import clone, from_proto
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights import layout as layouts
from onnx_compress.ir.weights.operators import OPERATORS

RNG = np.random.default_rng(0)


def array(*shape: int, dtype=np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def view(body: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray):
    """A model with these initializers; `body` starts with inputs and outputs."""
    proto = parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]> g {body}'
    )
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return from_proto(proto)


def only(model):
    (weight,) = find_weights(model)
    return weight


def run(model, **feed):
    return Session(model).run({name: np.asarray(a) for name, a in feed.items()})


# ------------------------------------------------------------------------------------ layouts

shapes = st.lists(st.sampled_from([1, 2, 3, 4, 5, 0]), min_size=2, max_size=5).map(tuple)


@st.composite
def any_layout(draw):
    shape = draw(shapes)
    kind = draw(st.sampled_from(["rows", "columns", "batched", "convolution", "along"]))
    groups = draw(st.sampled_from([g for g in range(1, 6) if shape[0] % g == 0]))
    if kind == "rows":
        return layouts.rows_first(shape, groups)
    if kind == "columns":
        return layouts.columns_first(shape)
    if kind == "batched":
        return layouts.batched_rows(shape)
    if kind == "convolution":
        return layouts.transposed_convolution(shape, groups)
    return layouts.along(shape, draw(st.integers(0, len(shape) - 1)))


@given(any_layout())
def test_a_matrix_is_restored_to_the_array_it_came_from(layout):
    values = np.arange(np.prod(layout.shape, dtype=int)).reshape(layout.shape)
    matrix = layout.matrix(values)
    assert matrix.shape == (layout.groups, layout.rows, layout.columns)
    np.testing.assert_array_equal(layout.restore(matrix), values)
    np.testing.assert_array_equal(layout.restore(np.ascontiguousarray(matrix)), values)


@given(any_layout())
def test_each_place_along_the_channel_axes_belongs_to_one_group_and_one_row(layout):
    if not all(layout.shape) or len(layout.split) == 4:
        return  # a transposed convolution with groups has a test of its own
    wide = [layout.shape[a] if a in layout.channel_axes else 1 for a in range(len(layout.shape))]
    channel = np.arange(np.prod(wide, dtype=int)).reshape(wide)
    matrix = layout.matrix(np.broadcast_to(channel, layout.shape))
    groups = [set(group.ravel().tolist()) for group in matrix]
    assert sum(len(group) for group in groups) == len(set.union(*groups))
    assert all(len(set(row.tolist())) == 1 for group in matrix for row in group)


# ---------------------------------------------------------- the operator, from its matrix alone


def columns_of(x: np.ndarray, kernel: tuple[int, int], groups: int) -> np.ndarray:
    """[N, groups, columns, places] of an image, without padding or stride."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    n, c, h, w = windows.shape[:4]
    split = windows.reshape(n, groups, c // groups, h, w, *kernel).transpose(0, 1, 2, 5, 6, 3, 4)
    return split.reshape(n, groups, -1, h * w)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_conv_is_the_product_of_its_matrix(groups):
    w = array(6, 6 // groups, 3, 2)
    model = view(f"(float[1,6,5,5] x) => (float y) {{ y = Conv<group = {groups}>(x, w) }}", w=w)
    (use,) = only(model).uses
    x = array(1, 6, 5, 5)
    expected = np.einsum("grc,ngcp->ngrp", use.matrix(w), columns_of(x, (3, 2), groups))
    np.testing.assert_allclose(run(model, x=x)[0], expected.reshape(1, 6, 3, 4), atol=1e-5)
    assert only(model).channel_axes == (0,)
    assert (use.layout.groups, use.layout.rows) == (groups, 6 // groups)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_transposed_conv_is_the_transposed_product_of_its_matrix(groups):
    w = array(6, 4, 2, 3)
    model = view(
        f"(float[1,6,1,1] x) => (float y) {{ y = ConvTranspose<group = {groups}>(x, w) }}", w=w
    )
    (use,) = only(model).uses
    x = array(1, 6, 1, 1)
    matrix = use.matrix(w).reshape(groups, 4, 6 // groups, 2, 3)
    expected = np.einsum("groxy,go->grxy", matrix, x.reshape(groups, 6 // groups))
    np.testing.assert_allclose(run(model, x=x)[0][0], expected.reshape(-1, 2, 3), atol=1e-5)
    assert only(model).channel_axes == ((1,) if groups == 1 else (0,))


def test_scales_of_a_transposed_conv_with_groups_never_span_two_groups():
    text = "(float[1,6,1,1] x) => (float y) { y = ConvTranspose<group = 3>(x, w) }"
    assert only(view(text, w=array(6, 4, 4, 4))).channel_axes == (0, 1)
    assert only(view(text, w=array(6, 1, 4, 4))).channel_axes == (0,)
    assert only(view(text, w=array(6, 4, 3, 3))).channel_axes == (0,)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_the_product_of_its_matrix_on_either_side(transposed):
    w = array(3, 4)
    model = view(
        f"(float[2,{3 + transposed}] x) => (float y) "
        f"{{ y = Gemm<transB = {transposed}>(x, w) }}", w=w
    )  # fmt: skip
    (use,) = only(model).uses
    x = array(2, 3 + transposed)
    np.testing.assert_allclose(run(model, x=x)[0], x @ use.matrix(w)[0].T, atol=1e-5)
    assert use.multiplied
    assert only(model).channel_axes == (1 - transposed,)
    model = view(
        f"(float[{4 - transposed},2] x) => (float y) "
        f"{{ y = Gemm<transA = {transposed}>(w, x) }}", w=w
    )  # fmt: skip
    (use,) = only(model).uses
    x = array(4 - transposed, 2)
    np.testing.assert_allclose(run(model, x=x)[0], use.matrix(w)[0] @ x, atol=1e-5)
    assert not use.multiplied
    assert only(model).channel_axes == (transposed,)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_matmul_is_the_product_of_its_matrix_on_either_side(batch):
    w = array(*batch, 4, 5)
    x = array(*batch, 2, 4)
    model = view(f"(float{list(x.shape)} x) => (float y) {{ y = MatMul(x, w) }}", w=w)
    (use,) = only(model).uses
    expected = x.reshape(-1, 2, 4) @ use.matrix(w).transpose(0, 2, 1)
    np.testing.assert_allclose(run(model, x=x)[0].reshape(-1, 2, 5), expected, atol=1e-5)
    assert only(model).channel_axes == (*range(len(batch)), len(batch) + 1)
    x = array(*batch, 5, 2)
    model = view(f"(float{list(x.shape)} x) => (float y) {{ y = MatMul(w, x) }}", w=w)
    (use,) = only(model).uses
    expected = use.matrix(w) @ x.reshape(-1, 5, 2)
    np.testing.assert_allclose(run(model, x=x)[0].reshape(-1, 4, 2), expected, atol=1e-5)
    assert only(model).channel_axes == tuple(range(len(batch) + 1))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_gather_picks_rows_of_its_matrix(axis):
    w = array(3, 4, 5)
    model = view(f"(int64 i) => (float y) {{ y = Gather<axis = {axis}>(w, i) }}", w=w)
    (use,) = only(model).uses
    picked = use.matrix(w)[0][1]
    got = run(model, i=np.int64(1))[0]
    np.testing.assert_array_equal(got.ravel(), picked)
    assert use.gathered
    assert only(model).channel_axes == (axis % 3,)


def test_lstm_multiplies_both_of_its_matrices():
    w, r = array(2, 8, 3), array(2, 8, 2)
    model = view(
        "(float[5,1,3] x) => (float y) "
        '{ y = LSTM<hidden_size = 2, direction = "bidirectional">(x, w, r) }', w=w, r=r
    )  # fmt: skip
    first, second = find_weights(model)
    assert [(weight.name, weight.uses[0].slot) for weight in (first, second)] == [
        ("w", 1),
        ("r", 2),
    ]
    np.testing.assert_array_equal(first.uses[0].matrix(w), w)
    np.testing.assert_array_equal(second.uses[0].matrix(r), r)
    assert first.channel_axes == (0, 1)


SAMPLES = {
    "Conv": "y = Conv(x, w)",
    "com.microsoft.FusedConv": 'y = com.microsoft.FusedConv<activation = "Relu">(x, w)',
    "ConvTranspose": "y = ConvTranspose(x, w)",
    "Gemm": "f = Flatten(x)  y = Gemm(f, m)",
    "MatMul": "y = MatMul(x, m)",
    "Gather": "i = Shape(x)  y = Gather(m, i)",
    "LSTM": "y = LSTM<hidden_size = 1>(x, w, w)",
    "GRU": "y = GRU<hidden_size = 1>(x, w, w)",
    "RNN": "y = RNN<hidden_size = 1>(x, w, w)",
    "com.microsoft.Attention": "y = com.microsoft.Attention<num_heads = 1>(x, m, b)",
}


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_of_the_table_is_found(op):
    model = view(
        f"(float x) => (float y) {{ {SAMPLES[op]} }}", w=array(4, 2, 3), m=array(6, 6), b=array(6)
    )
    found = [(use.node.op, use.slot) for weight in find_weights(model) for use in weight.uses]
    expected = [(op, slot) for slot in OPERATORS[op].slots if slot or op == "Gather"]
    assert found == expected
    for weight in find_weights(model):
        for use in weight.uses:
            stored = weight.array()
            np.testing.assert_array_equal(use.layout.restore(use.matrix(stored)), stored)
            assert use.operand is use.node.inputs[use.slot]


# --------------------------------------------------------------------------- where it is kept


def test_initializers_constant_nodes_and_sparse_ones_are_weights():
    w = array(3, 4)
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [7])
    model = view("""(float[2,3] x) => (float y) {
        c = Constant<value = float[4, 2] {1, 2, 3, 4, 5, 6, 7, 8}>()
        p = MatMul(x, w)  q = MatMul(p, c)  y = MatMul(q, s) }""", w=w)  # fmt: skip
    proto = model.skeleton()
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


# ------------------------------------------------------------------------------------- paths


@st.composite
def paths(draw):
    """Steps from a stored tensor to an operand of rank 2 or more: (text, stored array)."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    stored = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    now, lines = stored, []
    for at in range(draw(st.integers(0, 5))):
        kinds = ["Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"]
        kind = draw(st.sampled_from(kinds))
        read, made = f"v{at}" if lines else "w", f"v{at + 1}"
        read = f"v{len(lines)}" if lines else "w"
        made = f"v{len(lines) + 1}"
        if kind == "Transpose":
            perm = draw(st.permutations(range(now.ndim)))
            if draw(st.booleans()):
                perm, given_perm = list(reversed(range(now.ndim))), ""
            else:
                given_perm = f"<perm = {list(perm)}>"
            if not perm:
                continue
            now = now.transpose(perm)
            lines.append(f"{made} = Transpose{given_perm}({read})")
        elif kind == "Reshape":
            keep = draw(st.integers(0, min(now.ndim, 2)))
            lines.append(
                f"s{at} = Constant<value_ints = {[0] * keep + [-1]}>()  "
                f"{made} = Reshape({read}, s{at})"
            )
            now = now.reshape(*now.shape[:keep], -1)
        elif kind == "Unsqueeze":
            axis = draw(st.integers(-now.ndim - 1, now.ndim))
            lines.append(
                f"s{at} = Constant<value_ints = [{axis}]>()  {made} = Unsqueeze({read}, s{at})"
            )
            now = np.expand_dims(now, axis)
        elif kind == "Squeeze":
            lines.append(f"{made} = Squeeze({read})")
            now = now.squeeze()
        elif kind == "Flatten":
            axis = draw(st.integers(-now.ndim, now.ndim))
            lines.append(f"{made} = Flatten<axis = {axis}>({read})")
            at_axis = axis % now.ndim if axis < 0 else axis
            now = now.reshape(int(np.prod(now.shape[:at_axis])), -1)
        else:
            lines.append(f"{made} = {kind}{'<to = 1>' if kind == 'Cast' else ''}({read})")
    return lines, stored, now


@given(paths())
def test_the_way_from_the_stored_tensor_to_the_operand_is_followed(path):
    lines, stored, operand = path
    last = f"v{len(lines)}" if lines else "w"
    body = f"(float x) => (float y) {{ {' '.join(lines)} y = MatMul(x, {last}) }}"
    found = find_weights(view(body, w=stored)).weights
    if operand.ndim < 2:
        assert not found
        return
    (weight,) = found
    (use,) = weight.uses
    assert len(use.path.steps) == len(lines)
    assert use.path.shape == operand.shape
    np.testing.assert_array_equal(use.path.apply(stored), operand)
    assert weight.sole_use
    # a scale for each place along the stored axes never differs within a row of the operand
    wide = [d if a in weight.channel_axes else 1 for a, d in enumerate(stored.shape)]
    scale = np.broadcast_to(np.arange(np.prod(wide)).reshape(wide), stored.shape)
    matrix = use.matrix(np.ascontiguousarray(scale))
    assert (matrix == matrix[:, :, :1]).all()


def test_channels_are_followed_back_through_a_transpose_and_a_reshape():
    model = view("""(float[2,4] x, float[1,3,5,5] z) => (float y, float u) {
        t = Transpose(w)  y = MatMul(x, t)
        s = Constant<value_ints = [6, 3, 2, 2]>()  k = Reshape(v, s)  u = Conv(z, k)
    }""", w=array(6, 4), v=array(6, 12))  # fmt: skip
    w, v = find_weights(model)
    assert w.channel_axes == (0,)
    assert v.channel_axes == (0,)
    assert w.uses[0].path.moves


def test_squeeze_by_axes_computed_at_run_time_is_not_guessed():
    model = view("""(float x, int64[1] axes) => (float y) {
        s = Squeeze(w, axes)  y = MatMul(x, s) }""", w=array(1, 1, 4, 5))  # fmt: skip
    assert not find_weights(model).weights


def test_reshape_and_unsqueeze_at_run_time_are_told():
    for op in ("Reshape", "Unsqueeze"):
        model = view(
            f"(float x, int64[2] s) => (float y) {{ k = {op}(w, s)  y = MatMul(x, k) }}",
            w=array(4, 5),
        )
        (skipped,) = find_weights(model).skipped
        assert "at run time" in skipped.reason


# ------------------------------------------------------------------------------- several uses


def test_a_tied_weight_is_one_weight_with_two_uses():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t)
    }""", w=array(7, 4))  # fmt: skip
    weight = only(model)
    assert [(use.gathered, use.multiplied) for use in weight.uses] == [(True, False), (False, True)]
    assert weight.channel_axes == (0,)
    assert not weight.sole_use
    assert weight.others == []


def test_uses_that_have_no_axis_in_common_share_one_scale():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  y = MatMul(e, w) }""", w=array(4, 4))  # fmt: skip
    assert only(model).channel_axes == ()


def test_other_readers_of_the_tensor_and_of_the_steps_are_told():
    model = view("""(float[2,4] x) => (float y, float a, float b) {
        t = Transpose(w)  y = MatMul(x, t)  a = Abs(w)  b = Neg(t) }""", w=array(6, 4))  # fmt: skip
    assert sorted(node.op for node in only(model).others) == ["Abs", "Neg"]
    assert not only(model).sole_use


def test_a_node_that_reads_its_weight_in_another_slot_too_is_no_sole_use():
    model = view("(float[4,4] x) => (float y) { y = Gemm(x, w, w) }", w=array(4, 4))
    assert not only(model).sole_use


def test_both_operands_of_one_product_may_be_the_same_weight():
    model = view("(float[4,4] x) => (float y) { a = MatMul(w, w)  y = Add(a, x) }", w=array(4, 4))
    assert [use.slot for use in only(model).uses] == [0, 1]


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


def test_an_empty_optional_weight_slot_is_no_weight():
    model = view("(float[2,4] x) => (float y) { y = Gemm(x, w, ) }", w=array(4, 4))
    assert [use.slot for use in only(model).uses] == [1]
    assert not No("why")
