"""Forms and readers: after `emit` the model loads, and computes with what `decode` says."""

from itertools import product

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph import clone, from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.files import file_size
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import READERS, Affine, Dense, Half, affine, minimum_opset
from onnx_compress.kernels.affine import quantize, symmetric_scale

RNG = np.random.default_rng(0)
BITS = 7  # 8-bit products of some processors saturate with more


def array(*shape: int, dtype=np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def view(body: str, opset: int = 17, ir_version: int = 8, **weights: np.ndarray):
    proto = parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g {body}')
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return from_proto(proto)


def run(model, feed, optimize: bool = True):
    check(model)
    feed = {name: np.asarray(a) for name, a in feed.items()}
    return Session(model, optimize=optimize).run(feed)


def coded(weight, reader: str | dict | None = None, axes=None) -> Affine:
    """int8 codes of a weight, all uses read by `reader`, or by operator type as a dict says."""
    values = weight.array()
    scale = symmetric_scale(values, weight.channel_axes if axes is None else axes, BITS)
    codes = quantize(values, scale, BITS)
    by_op = reader if isinstance(reader, dict) else {}
    readers = {use: by_op.get(use.node.op, "codec") for use in weight.uses}
    if isinstance(reader, str):
        readers = dict.fromkeys(weight.uses, reader)
    return affine(weight, codes, scale, readers)


def allowed(form, weight) -> bool:
    readers = ((use, READERS[form.readers.get(use, "codec")]) for use in weight.uses)
    return all(reader.allows(use, form) is None for use, reader in readers)


def emitted(model, make):
    """The model with every weight in the form that `make` gives, and with the decoded numbers."""
    small, dense = clone(model), clone(model)
    forms = {}
    for weight in find_weights(small):
        forms[weight.name] = make(weight)
        forms[weight.name].emit(weight)
    for weight in find_weights(dense):
        Dense(forms[weight.name].decode()).emit(weight)
    return small, dense, forms


def same_bits(model, feed, make, optimize: bool = True, tolerance: float = 0.0):
    small, dense, forms = emitted(model, make)
    again = from_proto(to_proto(small))
    assert again.interface() == model.interface()
    for got, want in zip(run(again, feed, optimize), run(dense, feed, optimize), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return small, forms


def rounding(name: str, optimize: bool = True) -> float:
    """How far sums may differ: the runtime has several kernels for the same product."""
    fused = optimize and name.startswith("Gather") and "MatMul" in name
    return 1e-5 if fused or not optimize else 0.0


def close(model, feed, make, tolerance: float = 0.03):
    small, dense, forms = emitted(model, make)
    again = from_proto(to_proto(small))
    for got, want in zip(run(again, feed), run(dense, feed), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
    return small, forms


BODIES = {
    "Conv": (
        "(float[1,6,5,5] x) => (float y) { y = Conv(x, w, b) }",
        {"w": (8, 6, 3, 3), "b": (8,)},
    ),
    "Conv in groups": (
        "(float[1,6,5,5] x) => (float y) { y = Conv<group = 3>(x, w) }",
        {"w": (9, 2, 3, 3)},
    ),
    "Conv of one dimension": ("(float[1,6,5] x) => (float y) { y = Conv(x, w) }", {"w": (8, 6, 3)}),
    "ConvTranspose": (
        "(float[1,6,5,5] x) => (float y) { y = ConvTranspose(x, w) }",
        {"w": (6, 4, 2, 2)},
    ),
    "ConvTranspose in groups": (
        "(float[1,6,5,5] x) => (float y) { y = ConvTranspose<group = 2>(x, w) }",
        {"w": (6, 4, 2, 2)},
    ),
    "ConvTranspose in groups, wide": (
        "(float[1,6,5,5] x) => (float y) { y = ConvTranspose<group = 2>(x, w) }",
        {"w": (6, 4, 4, 4)},
    ),
    "Gemm": ("(float[3,6] x) => (float y) { y = Gemm(x, w, b) }", {"w": (6, 8), "b": (8,)}),
    "Gemm on the left": ("(float[6,3] x) => (float y) { y = Gemm(w, x) }", {"w": (4, 6)}),
    "MatMul": ("(float[2,3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}),
    "MatMul of a vector": ("(float[6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 8)}),
    "MatMul in batches": ("(float[2,3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (2, 6, 8)}),
    "MatMul on the left": ("(float[2,6,3] x) => (float y) { y = MatMul(w, x) }", {"w": (5, 6)}),
    "MatMul of one column": ("(float[3,6] x) => (float y) { y = MatMul(x, w) }", {"w": (6, 1)}),
    "MatMul twice": (
        "(float[3,6] x) => (float y) { a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b) }",
        {"w": (6, 8), "v": (6, 8)},
    ),
    "MatMul over steps": (
        """(float[3,6] x) => (float y) { s = Constant<value_ints = [8, 6]>()
        r = Reshape(w, s)  i = Identity(r)  t = Transpose(i)  y = MatMul(x, t) }""",
        {"w": (8, 2, 3)},
    ),
    "MatMul over a Cast": (
        "(float[3,6] x) => (float y) { i = Cast<to = 1>(w)  y = MatMul(x, i) }",
        {"w": (6, 8)},
    ),
    "Gather": ("(int64[2,2] i) => (float y) { y = Gather(w, i) }", {"w": (9, 5)}),
    "Gather of one": ("(int64 i) => (float y) { y = Gather(w, i) }", {"w": (9, 5)}),
    "Gather along 1": ("(int64[2,2] i) => (float y) { y = Gather<axis = 1>(w, i) }", {"w": (5, 9)}),
    "Gather along -1": ("(int64[3] i) => (float y) { y = Gather<axis = -1>(w, i) }", {"w": (5, 9)}),
    "Gather of rank 3": (
        "(int64[2,2] i) => (float y) { y = Gather<axis = 1>(w, i) }",
        {"w": (3, 9, 4)},
    ),
    "Gather over steps": (
        "(int64[2] i) => (float y) { t = Transpose(w)  y = Gather(t, i) }",
        {"w": (5, 9)},
    ),
    "Gather and MatMul": (
        """(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        {"w": (9, 6)},
    ),
    "Gather, MatMul and Abs": (
        "(int64[2] i) => (float y, float z) { e = Gather(w, i)  y = MatMul(e, w)  z = Abs(w) }",
        {"w": (6, 6)},
    ),
    "LSTM": (
        "(float[4,1,3] x) => (float y) { y = LSTM<hidden_size = 2>(x, w, r, b) }",
        {"w": (1, 8, 3), "r": (1, 8, 2), "b": (1, 16)},
    ),
    "GRU of two directions": (
        "(float[4,1,3] x) => (float y) "
        '{ y = GRU<hidden_size = 2, direction = "bidirectional">(x, w, r) }',
        {"w": (2, 6, 3), "r": (2, 6, 2)},
    ),
    "one weight in both branches": (
        """(bool c, float[3,6] x) => (float y) { y = If (c) <
        then_branch = t () => (float a) { a = MatMul(x, w) },
        else_branch = e () => (float a) { n = Neg(x)  a = Gemm(n, w) }> }""",
        {"w": (6, 8)},
    ),
    "a table in a branch": (
        """(bool c, int64[2] i) => (float y) { y = If (c) <
        then_branch = t () => (float a) { a = Gather(w, i) },
        else_branch = e () => (float a) { g = Gather(w, i)  a = Neg(g) }> }""",
        {"w": (9, 5)},
    ),
    "kept in branches": (
        """(bool c, float[3,2] x) => (float y) { y = If (c) <
        then_branch = t () => (float a) <float[2,3] k = {1,2,3,4,5,-6}> { a = MatMul(x, k) },
        else_branch = e () => (float a) {
            l = Constant<value = float[2,3] {1,-2,3,4,5,6}>()  a = MatMul(x, l) }> }""",
        {},
    ),
    "kept in a loop": (
        """(int64 n, float[3,2] x) => (float y) { y = Loop(n, , x) <
        body = l (int64 j, bool go, float[3,2] s) => (bool on, float[3,2] o)
        <float[2,2] k = {0.5, 0.25, -0.5, 1}> { on = Identity(go)  o = MatMul(s, k) }> }""",
        {},
    ),
    "a Constant node": (
        """(float[3,2] x) => (float y) {
        k = Constant<value = float[2,3] {1,2,3,4,5,-6}>()  y = MatMul(x, k) }""",
        {},
    ),
    "floats of a Constant node": (
        """(float[3,2] x) => (float y) { k = Constant<value_floats = [1.0,2.0,3.0,4.0,5.0,-6.0]>()
        s = Constant<value_ints = [2,3]>()  r = Reshape(k, s)  y = MatMul(x, r) }""",
        {},
    ),
}


def sample(name: str):
    """The model of that name and feeds for it."""
    body, shapes = BODIES[name]
    model = view(body, **{key: array(*shape) for key, shape in shapes.items()})
    feed = {}
    for value, info in model.graph.inputs:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if value.name == "i":
            feed["i"] = RNG.integers(0, 5, shape)
        elif value.name == "n":
            feed["n"] = np.int64(3)
        elif value.name != "c":
            feed[value.name] = array(*shape)
    both = "c" in [value.name for value in model.inputs()]
    return model, [{**feed, "c": np.array(c)} for c in (True, False)] if both else [feed]


@pytest.mark.parametrize("name", BODIES)
def test_dense_numbers_replace_what_was_there(name):
    model, feeds = sample(name)
    for feed in feeds:
        small, _ = same_bits(model, feed, lambda weight: Dense(weight.array() * 2))
        assert [n.op for n in small.nodes()] == [n.op for n in model.nodes()]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("optimize", [True, False])
def test_half_computes_with_the_nearest_float16_numbers(name, optimize):
    model, feeds = sample(name)
    for feed in feeds:
        _, forms = same_bits(
            model,
            feed,
            lambda weight: Half.of(weight, weight.array()),
            optimize,
            rounding(name, optimize),
        )
        assert all(form.codes.dtype == np.float16 for form in forms.values())


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("reader", ["codec", "gathered"])
@pytest.mark.parametrize("axes", ["own", "one"])
def test_codes_decoded_in_floats_give_the_same_bits_as_the_decoded_weight(name, reader, axes):
    model, feeds = sample(name)
    by_op = {"Gather": reader} if name != "Gather over steps" else {}
    for feed in feeds:
        same_bits(
            model,
            feed,
            lambda weight: coded(weight, by_op, None if axes == "own" else ()),
            tolerance=rounding(name),
        )


@pytest.mark.parametrize("shape", [(5, 9), (3, 4, 6)])
@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("form", ["codec", "gathered", "half"])
def test_what_is_read_has_the_very_bits_that_decode_says(shape, axes, form):
    """Whole, through a Gather, through steps: in one model, whose products play no part."""
    model = view(
        """(int64[2] i) => (float whole, float picked, float turned) {
        whole = Identity(w)  picked = Gather(w, i)  turned = Transpose(w) }""",
        w=array(*shape) ** 5,
    )
    (weight,) = find_weights(model)
    made = Half.of(weight, weight.array()) if form == "half" else coded(weight, form, axes)
    expected = made.decode()
    made.emit(weight)
    whole, picked, turned = run(from_proto(to_proto(model)), {"i": np.array([2, 0])})
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(picked, expected[[2, 0]])
    np.testing.assert_array_equal(turned, expected.T)


@pytest.mark.parametrize("name", BODIES)
def test_what_a_form_wrote_is_not_taken_for_a_weight_again(name):
    """A later pass must not prune or quantize scales."""
    model, _ = sample(name)
    by_op = {"Gather": "gathered"} if name != "Gather over steps" else {}
    small, _, _ = emitted(model, lambda weight: coded(weight, by_op))
    assert not find_weights(small).weights


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("reader", ["dynamic", "dequantize"])
def test_integer_products_are_close(name, reader):
    model, feeds = sample(name)
    for feed in feeds:
        small, _ = close(
            model,
            feed,
            lambda weight: next(
                form
                for form in (coded(weight, {"MatMul": reader, "Gemm": reader}), coded(weight))
                if allowed(form, weight)
            ),
        )
        ops = {node.op for node in small.nodes()}
        assert ("MatMulInteger" in ops) <= (reader == "dynamic")
        assert ("DequantizeLinear" in ops) <= (reader == "dequantize")


def test_products_are_really_read_as_integers():
    for name in ("MatMul", "Gemm", "MatMul over steps", "Gather and MatMul", "MatMul twice"):
        for reader, op in (("dynamic", "MatMulInteger"), ("dequantize", "DequantizeLinear")):
            model, (feed,) = sample(name)
            small, _ = close(model, feed, lambda w, r=reader: coded(w, {"MatMul": r, "Gemm": r}))
            assert op in {node.op for node in small.nodes()}


def test_products_of_one_input_quantize_it_once():
    model, _ = sample("MatMul twice")
    small, _, _ = emitted(model, lambda weight: coded(weight, "dynamic"))
    assert [n.op for n in small.nodes()].count("DynamicQuantizeLinear") == 1


# ----------------------------------------------------------------------------- Gemm variants

BIASES = {"none": None, "row": (8,), "one row": (1, 8), "column": (3, 1), "full": (3, 8), "one": ()}


@pytest.mark.parametrize("reader", ["codec", "dynamic", "dequantize"])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("trans_a", "trans_b"), list(product((0, 1), repeat=2)))
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0)])
def test_every_spelling_of_gemm(reader, bias, trans_a, trans_b, alpha, beta):
    shape = BIASES[bias]
    model = view(
        f"""(float[{"6,3" if trans_a else "3,6"}] x) => (float y) {{
        y = Gemm<alpha = {alpha}, beta = {beta}, transA = {trans_a}, transB = {trans_b}>
        (x, w{", b" if shape is not None else ""}) }}""",
        w=array(*((8, 6) if trans_b else (6, 8))),
        **({"b": array(*shape)} if shape is not None else {}),
    )  # fmt: skip
    feed = {"x": array(6, 3) if trans_a else array(3, 6)}
    if reader == "codec":
        same_bits(model, feed, lambda weight: coded(weight, reader))
    else:
        close(model, feed, lambda weight: coded(weight, reader))


@pytest.mark.parametrize("reader", ["dynamic", "dequantize"])
def test_a_bias_that_is_computed_is_scaled_at_run_time(reader):
    model = view(
        "(float[3,6] x, float[8] b) => (float y) { c = Neg(b)  y = Gemm<beta = 0.5>(x, w, c) }",
        w=array(6, 8),
    )
    close(model, {"x": array(3, 6), "b": array(8)}, lambda weight: coded(weight, reader))


@pytest.mark.parametrize("reader", ["dynamic", "dequantize"])
def test_a_weight_that_is_the_bias_too(reader):
    model = view("(float[6,6] x) => (float y) { y = Gemm(x, w, w) }", w=array(6, 6))
    close(model, {"x": array(6, 6)}, lambda weight: coded(weight, reader))


@pytest.mark.parametrize("reader", ["dynamic", "dequantize"])
def test_both_sides_of_one_product(reader):
    model = view(
        "(float[6,6] x) => (float y) { a = MatMul(w, w)  y = MatMul(x, a) }", w=array(6, 6)
    )

    def right_side(weight):
        form = coded(weight)
        left, right = weight.uses
        return affine(weight, form.codes, form.scale, {left: "codec", right: reader})

    close(model, {"x": array(6, 6)}, right_side)


# ---------------------------------------------------------------------------- refusals, scales


@pytest.mark.parametrize("reader", ["gathered", "dynamic", "dequantize"])
def test_a_use_that_does_not_allow_its_reader_is_refused_and_nothing_changes(reader):
    model, _ = sample("Conv")
    before = to_bytes(model)
    (weight,) = find_weights(model)
    with pytest.raises(PreconditionError) as caught:
        coded(weight, reader).emit(weight)
    assert caught.value.where == "y"
    assert to_bytes(model) == before


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize(
    "body", ["MatMul(x, w)", "Gemm<transB = 1>(x, w)", "Gather<axis = 1>(w, i)"]
)
def test_scales_along_any_axes_of_a_square_weight_are_right_or_refused(reader, axes, body):
    model = view(f"(float[3,6] x, int64[2] i) => (float y) {{ y = {body} }}", w=array(6, 6) ** 3)
    (weight,) = find_weights(model)
    if allowed(coded(weight, reader, axes), weight):
        feed = {"x": array(3, 6), "i": np.array([1, 4])}
        close(model, feed, lambda w: coded(w, reader, axes))


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_zero_points_are_taken_off_before_the_scale(dtype):
    for name, reader in (
        ("MatMul", "codec"),
        ("Gather", "gathered"),
        ("Gather along 1", "gathered"),
    ):
        model, (feed,) = sample(name)

        def asymmetric(weight, reader=reader):
            form = coded(weight)
            zero = np.arange(form.scale.size, dtype=dtype).reshape(form.scale.shape) - 3
            readers = dict.fromkeys(weight.uses, reader)
            return Affine(form.codes, form.scale, zero, weight.element, "float32", readers)

        same_bits(model, feed, asymmetric)
        (weight,) = find_weights(model)
        form = asymmetric(weight)
        for integer in ("dynamic", "dequantize"):
            assert isinstance(READERS[integer].allows(weight.uses[0], form), No)


def test_numbers_that_float16_cannot_hold_are_refused():
    model, _ = sample("MatMul")
    (weight,) = find_weights(model)
    for bad in (np.nan, np.inf, -70000.0):
        values = weight.array().copy()
        values[0, 0] = bad
        assert not Half.of(weight, values)
    values[0, 0] = 65504
    assert Half.of(weight, values)


# ----------------------------------------------------------------------------- size, tied, names


def test_a_tied_table_is_stored_once_as_codes():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        w=array(300, 64))  # fmt: skip
    for reader in ("codec", "dynamic"):
        small, _ = close(
            model,
            {"i": np.array([7, 299])},
            lambda weight, r=reader: coded(weight, {"Gather": "gathered", "MatMul": r}),
        )
        assert file_size(small) < 0.3 * file_size(model)
        large = [t for t in to_proto(small).graph.initializer if np.prod(t.dims) == 300 * 64]
        assert [t.data_type for t in large] == [TensorProto.INT8]


def test_half_of_a_tied_table_is_stored_once():
    model = view("""(int64[2] i) => (float y) {
        e = Gather(w, i)  t = Transpose<perm = [1, 0]>(w)  y = MatMul(e, t) }""",
        w=array(300, 64))  # fmt: skip
    feed = {"i": np.array([7, 299])}
    small, _ = same_bits(
        model, feed, lambda weight: Half.of(weight, weight.array()), tolerance=1e-5
    )
    assert file_size(small) < 0.55 * file_size(model)


@pytest.mark.parametrize("reader", READERS)
def test_the_original_goes_and_the_file_shrinks(reader):
    text = "(int64[2] i) => (float y) { y = Gather(w, i) }"
    if reader in ("dynamic", "dequantize"):
        text = "(float[1,256] x) => (float y) { y = MatMul(x, w) }"
    model = view(text, w=array(256, 64))
    small, _, forms = emitted(model, lambda weight: coded(weight, reader))
    stored = to_proto(small).graph.initializer
    assert "w" not in [t.name for t in stored]
    assert sum(len(t.raw_data) for t in stored) == forms["w"].nbytes()
    assert file_size(small) < 0.35 * file_size(model)


def test_documentation_of_the_weight_and_the_node_goes_with_them():
    proto = to_proto(sample("MatMul")[0])
    proto.graph.initializer[0].doc_string = "about w"
    proto.graph.node[0].doc_string = "about the product"
    proto.graph.node[0].name = "product"
    small, _, _ = emitted(from_proto(proto), lambda weight: coded(weight, "codec"))
    (codes,) = [t for t in to_proto(small).graph.initializer if t.data_type == TensorProto.INT8]
    assert codes.doc_string == "about w"
    small, _, _ = emitted(from_proto(proto), lambda weight: coded(weight, "dynamic"))
    named = {node.proto.op_type: node.proto for node in small.nodes()}
    assert named["MatMulInteger"].name == "product"
    assert named["DynamicQuantizeLinear"].doc_string == "about the product"


def test_names_stay_unique_and_short_with_weights_of_long_equal_endings():
    tail = "/a/very/long/scope/of/modules.weight"
    proto = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[3,6] x) => (float y) '
        "{ a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b) }"
    )
    for at, name in enumerate(("one" + tail, "two" + tail)):
        proto.graph.initializer.append(numpy_helper.from_array(array(6, 8), name))
        proto.graph.node[at].input[1] = name
    for reader in ("codec", "dynamic", "dequantize"):
        feed = {"x": array(3, 6)}
        small, _ = close(from_proto(proto), feed, lambda w, r=reader: coded(w, r))
        made = [v.name for node in small.nodes() for v in node.outputs]
        made += [value.name for value in small.graph.initializers]
        assert len(set(made)) == len(made)
        assert max(len(name) for name in made) < 40


def test_one_emitted_copy_leaves_the_other_alone():
    model, (feed,) = sample("Gather and MatMul")
    before, expected = to_bytes(model), run(model, feed)
    emitted(model, lambda weight: coded(weight, {"Gather": "gathered", "MatMul": "dynamic"}))
    assert to_bytes(model) == before
    np.testing.assert_array_equal(run(model, feed), expected)


# --------------------------------------------------------------------------- operator sets, types


@pytest.mark.parametrize("reader", READERS)
def test_a_model_of_the_operator_set_that_a_reader_asks_for_loads(reader):
    opset = minimum_opset([reader])
    text = "(float[3,6] x) => (float y) { y = MatMul(x, w) }"
    feed = {"x": array(3, 6)}
    if reader == "gathered":
        text, feed = "(int64[2] i) => (float y) { y = Gather(w, i) }", {"i": np.array([1, 4])}
    model = view(text, opset, 3, w=array(6, 8))
    small, _ = close(model, feed, lambda weight: coded(weight, reader))
    assert small.opset() == opset
    assert minimum_opset(["codec", reader]) >= opset


def test_half_loads_in_the_oldest_operator_set_of_its_readers():
    for name in ("MatMul", "Gather"):
        body, shapes = BODIES[name]
        model = view(body, 7, 3, w=array(*shapes["w"]))
        feed = sample(name)[1][0]
        same_bits(model, feed, lambda weight: Half.of(weight, weight.array()))


def test_weights_of_version_three_leave_the_list_of_inputs():
    text = "(float[3,6] x, float[6,8] w) => (float[3,8] y) { y = MatMul(x, w) }"
    model = view(text, 8, 3, w=array(6, 8))
    small, _ = same_bits(model, {"x": array(3, 6)}, lambda weight: coded(weight, "codec"))
    assert [info.name for info in to_proto(small).graph.input] == ["x"]


TYPED = {
    "MatMul": "(float[3,6] x) => (float y) { c = Cast<to = 1>(w)  y = MatMul(x, c) }",
    "Gather": "(int64[2] i) => (float y) { c = Cast<to = 1>(w)  y = Gather(c, i) }",
    "after": "(int64[2] i) => (float y) { g = Gather(w, i)  y = Cast<to = 1>(g) }",
}


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE"])
@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("reader", [*READERS, "half"])
def test_weights_of_other_types_behind_a_cast_load_and_give_what_they_decode_to(name, reader, kind):
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
    model = view(TYPED[name], w=array(6, 6).astype(dtype))
    feed = {"x": array(3, 6)} if name == "MatMul" else {"i": np.array([1, 4])}
    (weight,) = find_weights(model)
    if reader == "half":
        same_bits(model, feed, lambda w: Half.of(w, w.array()))
    elif allowed(coded(weight, reader), weight):
        check_typed = close if reader in ("dynamic", "dequantize") else same_bits
        check_typed(model, feed, lambda w: coded(w, reader))


@pytest.mark.parametrize("kind", ["float16", "double"])
@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("reader", [*READERS, "half"])
def test_models_of_other_types_load_and_are_close(kind, opset, reader):
    dtype = np.dtype({"double": "float64"}.get(kind, kind))
    model = view(
        f"({kind}[3,6] x, int64[2] i) => ({kind} y, {kind} z) "
        "{ y = MatMul(x, w)  z = Gather(v, i) }",
        opset, w=array(6, 8, dtype=dtype), v=array(9, 5, dtype=dtype),
    )  # fmt: skip
    feed = {"x": array(3, 6, dtype=dtype), "i": np.array([1, 4])}

    def make(weight):
        if reader == "half":
            return Half.of(weight, weight.array())
        form = coded(weight, reader)
        return form if allowed(form, weight) else coded(weight)

    close(model, feed, make)


def test_a_weight_that_a_cast_makes_float16_is_right_for_every_reader():
    model = view(
        "(float16[3,6] x) => (float16 y) { c = Cast<to = 10>(w)  y = MatMul(x, c) }", w=array(6, 8)
    )
    feed = {"x": array(3, 6, dtype=np.float16)}
    for reader in READERS:
        (weight,) = find_weights(model)
        if allowed(coded(weight, reader), weight):
            close(model, feed, lambda w, r=reader: coded(w, r))
    model = view(
        "(int64[2] i) => (float16 y) { c = Cast<to = 10>(w)  y = Gather(c, i) }", w=array(6, 8)
    )
    for reader in ("codec", "gathered"):
        (weight,) = find_weights(model)
        if allowed(coded(weight, reader), weight):
            same_bits(model, {"i": np.array([1, 4])}, lambda w, r=reader: coded(w, r))


def test_a_model_may_be_compressed_again_after_half():
    """What Half wrote is a float16 weight behind a Cast."""
    model, (feed,) = sample("Gather and MatMul")
    once, _, _ = emitted(model, lambda weight: Half.of(weight, weight.array()))
    for reader in ("codec", "gathered"):
        twice, _, _ = emitted(once, lambda weight, r=reader: coded(weight, {"Gather": r}))
        for got, want in zip(run(twice, feed), run(model, feed), strict=True):
            assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("shape", [(0, 8), (6, 0)])
def test_weights_without_elements_are_emitted(shape):
    model = view(
        f"(float[3,{shape[0]}] x) => (float y) {{ y = MatMul(x, w) }}", w=np.zeros(shape, "f")
    )
    feed = {"x": array(3, shape[0])}
    for make in (lambda w: coded(w), lambda w: Half.of(w, w.array()), lambda w: Dense(w.array())):
        same_bits(model, feed, make)
