"""Raising the operator set: what stays, what is rewritten, what refuses; numbers never change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx.parser import parse_model

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.graph import from_proto, to_bytes, to_proto
from onnx_compress.ir.graph.invariants import check
from onnx_compress.ir.graph.opset import NEWEST, raise_to
from onnx_compress.ir.runtime import Session

X = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
TARGETS = (13, 17, 18, 21)


def model_of(body: str, opset: int, x="float[2, 4, 6]", y="float", ir_version: int = 7):
    return from_proto(
        parse_model(
            f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> '
            f"g ({x} x) => ({y} y) {body if '{' in body else '{ ' + body + ' }'}"
        )
    )


def run(model, **feed):
    return Session(model, optimize=False).run(feed or {"x": X})


def raised(model, version: int):
    raise_to(model, version)
    check(model)
    assert model.opset() == version
    return from_proto(to_proto(model))


def keeps_its_numbers(body: str, opset: int, version: int, **kwargs) -> None:
    """Raise a model of one output, which must give what it gave before."""
    expected = run(model_of(body, opset, **kwargs))
    got = run(raised(model_of(body, opset, **kwargs), version))
    for before, now in zip(expected, got, strict=True):
        np.testing.assert_array_equal(now, before)
        assert now.dtype == before.dtype


REWRITTEN = [
    ("y = Slice<starts = [1, -4], ends = [3, 100], axes = [1, -1]>(x)", 9),
    ("y = Slice<starts = [0, 1], ends = [1, 3]>(x)", 7),
    ("y, i = TopK<k = 2, axis = 1>(x)", 9),
    ("y, i = TopK<k = 3>(x)", 5),
    ("y = Dropout<ratio = 0.3>(x)", 11),
    ("y, m = Dropout(x)", 7),
    ("y = Upsample<scales = [1.0, 1.0, 2.5]>(x)", 8),
    ("{ s = Constant<value = float[3] {1.0, 2.0, 1.5}>()  y = Upsample(x, s) }", 9),
    (
        '{ s = Constant<value = float[3] {1.0, 1.0, 2.0}>()  y = Upsample<mode = "linear">(x, s) }',
        9,
    ),
    ("{ s = Constant<value = float[3] {1.0, 1.7, 2.0}>()  y = Resize(x, s) }", 10),
    ('{ s = Constant<value = float[3] {1.0, 1.0, 3.0}>()  y = Resize<mode = "linear">(x, s) }', 10),
    ("s = Unsqueeze<axes = [0, -1]>(x)  y = Squeeze<axes = [0]>(s)", 11),
    ("s = Unsqueeze<axes = [1]>(x)  y = Squeeze(s)", 11),
    ("y = ReduceSum<axes = [1], keepdims = 0>(x)", 11),
    ("y = ReduceSum(x)", 12),
    *((f"y = Reduce{kind}<axes = [-1], keepdims = 0>(x)", 12) for kind in ("Max", "Mean", "L2")),
    ("y = ReduceLogSumExp<axes = [0, 1]>(x)", 13),
    ("y = ReduceMean(x)", 11),
    ("a, b = Split<axis = 2, split = [2, 4]>(x)  y = Concat<axis = 2>(b, a)", 11),
    ("y = Clip<min = -0.5, max = 0.5>(x)", 9),
    ("y = Clip<max = 0.5>(x)", 7),
    ("y = Clip<min = -0.5>(x)", 10),
    ("y = Clip(x)", 9),
    ("y = Pad<pads = [0, 1, 0, 0, 0, 2], value = 1.5>(x)", 9),
    ('y = Pad<mode = "reflect", pads = [0, 1, 0, 0, 0, 2]>(x)', 7),
    ("y = Softmax<axis = 2>(x)", 11),
    ("y = LogSoftmax<axis = -1>(x)", 11),
    ("f = Flatten(x)  y = Softmax(f)", 9),
    ("y = Transpose<perm = [2, 0, 1]>(x)", 7),
    ("c = Cast<to = 7>(x)  y = Cast<to = 1>(c)", 9),
    ("y = Identity(x)", 7),
]


@pytest.mark.parametrize("version", TARGETS)
@pytest.mark.parametrize(("body", "opset"), REWRITTEN)
def test_rewritten_operators_keep_their_numbers(body, opset, version):
    keeps_its_numbers(body, opset, version)


NORMALISED = """{
    s = Constant<value = float[4] {1, 2, 3, 4}>()
    b = Constant<value = float[4] {0, 1, 0, -1}>()
    m = Constant<value = float[4] {0.5, 0, 0, 0}>()
    v = Constant<value = float[4] {1, 2, 1, 4}>()
    OUT = BatchNormalization<ATTRS>(x, s, b, m, v)
}"""


@pytest.mark.parametrize("version", TARGETS)
@pytest.mark.parametrize("opset", [7, 9, 13])
def test_batch_normalization_keeps_its_numbers(opset, version):
    body = NORMALISED.replace("OUT", "y").replace("ATTRS", "epsilon = 0.001")
    if opset >= 9 or version >= 14:
        keeps_its_numbers(body, min(opset, version), version)


def keeps_its_numbers_or_is_refused(body: str, opset: int, version: int, **kwargs) -> None:
    expected = run(model_of(body, opset, **kwargs))
    model = model_of(body, opset, **kwargs)
    try:
        raise_to(model, version)
    except UnsupportedError:
        return
    for before, now in zip(expected, run(from_proto(to_proto(model))), strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("version", [9, 13, 14, 21])
@pytest.mark.parametrize("attribute", ["spatial = 1", "spatial = 1, momentum = 0.5"])
def test_attributes_that_a_newer_operator_does_not_know_are_taken_away_or_refused(
    attribute, version
):
    body = NORMALISED.replace("OUT", "y").replace("ATTRS", attribute)
    keeps_its_numbers_or_is_refused(body, 7, version)


@pytest.mark.parametrize("version", [14, 21])
def test_unused_outputs_of_batch_normalization_do_not_stand_in_the_way(version):
    """Exporters wrote all five; from 14 on only training mode has more than one."""
    proto = to_proto(model_of(NORMALISED.replace("OUT", "y").replace("<ATTRS>", ""), 9))
    proto.graph.node[-1].output.extend(["mean", "var", "saved_mean", "saved_var"])
    model = from_proto(proto)
    try:
        raise_to(model, version)
    except UnsupportedError:
        return
    written = to_proto(model).graph.node[-1]
    assert [name for name in written.output if name] == ["y"]
    expected = run(model_of(NORMALISED.replace("OUT", "y").replace("<ATTRS>", ""), 9))
    np.testing.assert_array_equal(run(from_proto(to_proto(model)))[0], expected[0])


@pytest.mark.parametrize("version", TARGETS)
@pytest.mark.parametrize("opset", [11, 13])
def test_an_equal_split_keeps_its_numbers_or_is_refused(opset, version):
    if opset < version:
        body = "a, b = Split<axis = 2>(x)  y = Concat<axis = 2>(b, a)"
        keeps_its_numbers_or_is_refused(body, opset, version)


@pytest.mark.parametrize("opset", [18, 20])
def test_group_normalization_changed_its_scale_and_is_rewritten_or_refused(opset):
    body = """{
        s = Constant<value = float[2] {1, 2}>()
        b = Constant<value = float[2] {0, 1}>()
        y = GroupNormalization<num_groups = 2>(x, s, b)
    }"""
    model = model_of(body, opset, ir_version=8)
    expected = run(model_of(body, opset, ir_version=8))
    try:
        raise_to(model, 21)
    except UnsupportedError:
        return
    np.testing.assert_allclose(run(from_proto(to_proto(model)))[0], expected[0], rtol=1e-5)


def test_a_cast_to_a_type_written_as_text_is_rewritten_or_refused():
    proto = to_proto(model_of("y = Identity(x)", 5))
    proto.graph.node[0].CopyFrom(helper.make_node("Cast", ["x"], ["y"], to="INT64"))
    model = from_proto(proto)
    try:
        raise_to(model, 13)
    except UnsupportedError:
        return
    assert to_proto(model).graph.node[0].attribute[0].i == 7


def test_slopes_that_broadcast_in_another_way_are_refused():
    proto = to_proto(model_of("y = PRelu(x, s)", 6))
    proto.graph.initializer.append(helper.make_tensor("s", 1, [4], [1, 2, 3, 4]))
    with pytest.raises(UnsupportedError):
        raise_to(from_proto(proto), 7)


@pytest.mark.parametrize(
    ("body", "opset", "version", "word"),
    [
        ("y = Softmax(x)", 11, 13, "several axes"),
        ("y = Softmax<axis = 0>(x)", 11, 21, "several axes"),
        ("y = Hardmax(x)", 11, 13, "Hardmax"),
        ("y = Upsample<scales = [1.0, 1.0, 0.5]>(x)", 8, 13, "Upsample"),
        ("y = Upsample<scales = [1.0, 1.0, 2.0]>(x)", 8, 10, "Upsample"),
        ("y = Add<axis = 0, broadcast = 1>(x, x)", 6, 13, "Add"),
        ("y, m = Dropout<ratio = 0.3>(x)  z = Not(m)", 11, 13, "Dropout"),
    ],
)
def test_what_cannot_be_raised_is_refused_with_the_operator_in_the_way(body, opset, version, word):
    with pytest.raises(UnsupportedError, match=word) as caught:
        raise_to(model_of(body, opset), version)
    assert str(opset) in str(caught.value)
    assert caught.value.hint
    assert caught.value.where == "y"


def test_batch_normalization_in_training_form_is_refused():
    model = model_of(NORMALISED.replace("OUT", "h, u").replace("<ATTRS>", ""), 9)
    proto = to_proto(model)
    proto.graph.node.append(helper.make_node("Add", ["h", "u"], ["y"]))
    with pytest.raises(UnsupportedError, match="training"):
        raise_to(from_proto(proto), 14)


@pytest.mark.parametrize(("kind", "code"), [("float16", 10), ("float64", 11), ("int32", 6)])
def test_bounds_of_clip_get_the_type_of_its_input(kind, code):
    model = model_of(f"c = Cast<to = {code}>(x)  y = Clip<min = -2.0, max = 0.5>(c)", 9)
    raise_to(model, 13)
    clip = next(node for node in model.nodes() if node.op == "Clip")
    bounds = [model.constant(clip.input(slot)) for slot in (1, 2)]
    assert [bound.dtype for bound in bounds] == [kind, kind]
    assert [bound.shape for bound in bounds] == [(), ()]
    assert not clip.proto.attribute


def test_branches_are_raised_with_the_rest_and_keep_their_numbers():
    text = """<ir_version: 7, opset_import: ["" : 11]>
    g (bool c, float[2, 4, 6] x) => (float y) {
        y = If (c) <
            then_branch = t () => (float r)
                { t = ReduceMax<axes = [1]>(x)  r = Unsqueeze<axes = [0]>(t) },
            else_branch = e () => (float r) { t = Flatten(x)  r = Softmax(t) }
        >
    }"""
    for c in (True, False):
        feed = {"c": np.array(c), "x": X}
        expected = run(from_proto(parse_model(text)), **feed)
        model = raised(from_proto(parse_model(text)), 18)
        np.testing.assert_array_equal(run(model, **feed)[0], expected[0])


def test_branches_with_the_same_inner_names_are_told_apart():
    """`t` has rank 2 in one branch and rank 3 in the other; only the first Softmax may stay."""
    text = """<ir_version: 7, opset_import: ["" : 11]>
    g (bool c, float[2, 4, 6] x) => (float y) {
        y = If (c) <
            then_branch = a () => (float r) { t = Identity(x)  r = Softmax<axis = 1>(t) },
            else_branch = b () => (float r) { t = Flatten(x)  r = Softmax<axis = 1>(t) }
        >
    }"""
    for swap in (False, True):
        first, second = ("then_branch", "else_branch")
        swapped = text.replace(first, "?").replace(second, first).replace("?", second)
        model = from_proto(parse_model(swapped if swap else text))
        with pytest.raises(UnsupportedError, match="several axes"):
            raise_to(model, 13)


def test_raising_to_what_it_has_changes_nothing():
    model = model_of("y = Softmax<axis = 0>(x)", 12)
    before = to_bytes(model)
    for version in (0, 11, 12):
        raise_to(model, version)
    assert to_bytes(model) == before


def test_functions_and_unknown_versions_and_operators_are_refused():
    text = """<ir_version: 8, opset_import: ["" : 12, "l" : 1]> g (float[2] x) => (float[2] y)
        { y = l.f(x) } <domain: "l", opset_import: ["" : 12]> f (p) => (q) { q = Relu(p) }"""
    with pytest.raises(UnsupportedError, match="functions"):
        raise_to(from_proto(parse_model(text)), 13)
    with pytest.raises(UnsupportedError, match="unknown"):
        raise_to(model_of("y = Relu(x)", 13), NEWEST + 1)
    with pytest.raises(UnsupportedError, match="NoSuch"):
        raise_to(model_of("y = NoSuch(x)", 11), 13)


def test_other_domains_are_left_alone_and_the_default_one_may_be_spelled_out():
    model = from_proto(
        parse_model(
            '<ir_version: 7, opset_import: ["ai.onnx" : 11, "com.microsoft" : 1]> '
            "g (float[2, 4, 6] x) => (float[2, 4, 6] y) "
            "{ a = com.microsoft.Gelu(x)  y = ai.onnx.Clip(a) }"
        )
    )
    raise_to(model, 13)
    assert [(e.domain, e.version) for e in to_proto(model).opset_import] == [
        ("ai.onnx", 13),
        ("com.microsoft", 1),
    ]


def test_the_file_version_goes_up_with_the_operator_set():
    model = model_of("y = Relu(x)", 11, ir_version=3)
    raise_to(model, 21)
    assert model.ir_version == helper.find_min_ir_version_for([helper.make_opsetid("", 21)])
    model = model_of("y = Relu(x)", 11, ir_version=11)
    raise_to(model, 13)
    assert model.ir_version == 11


def test_weights_of_version_three_stay_weights():
    text = """<ir_version: 3, opset_import: ["" : 8]> g (float[2] x, float[2] w) => (float[2] y)
        <float[2] w = {1, 2}> { a = Add(x, w)  y = Clip<max = 1.5>(a) }"""
    model = from_proto(parse_model(text))
    before = model.interface()
    raise_to(model, 13)
    assert model.interface() == before
    assert [v.name for v in model.inputs()] == ["x"]
    got = run(from_proto(to_proto(model)), x=np.float32([0, 0]))
    np.testing.assert_array_equal(got[0], [1, 1.5])


OPERATORS = [
    ("Relu", ""), ("Neg", ""), ("Abs", ""), ("LeakyRelu", "alpha = 0.2"), ("Elu", ""),
    ("Flatten", "axis = 2"), ("Transpose", ""), ("Exp", ""), ("Sigmoid", ""), ("Max", ""),
    ("ReduceMax", "axes = [1]"), ("ReduceSum", "axes = [0], keepdims = 1"), ("Clip", "max = 1.0"),
    ("Unsqueeze", "axes = [0]"), ("Softmax", "axis = -1"), ("ArgMax", "axis = 1"), ("Mean", ""),
    ("MaxPool", "kernel_shape = [2]"), ("AveragePool", "kernel_shape = [2]"), ("Identity", ""),
    ("GlobalAveragePool", ""), ("Shape", ""), ("Selu", ""), ("Softplus", ""),
]  # fmt: skip


@given(
    st.lists(st.sampled_from(OPERATORS), min_size=1, max_size=3),
    st.sampled_from([7, 8, 9, 10, 11, 12]),
    st.sampled_from([13, 15, 18, 20]),
)
def test_any_chain_keeps_its_numbers_or_is_refused(chain, opset, version):
    lines = [f"v{at + 1} = {op}<{args}>(v{at})" for at, (op, args) in enumerate(chain)]
    body = "{ v0 = Identity(x) " + " ".join(lines) + f" y = Cast<to = 1>(v{len(chain)}) }}"
    body = body.replace("<>", "")
    try:
        expected = run(model_of(body, opset))
    except InvalidError:
        return  # no such model: wrong ranks, or types that the runtime does not have
    model = model_of(body, opset)
    try:
        raise_to(model, version)
    except UnsupportedError:
        return
    np.testing.assert_allclose(run(from_proto(to_proto(model)))[0], expected[0], rtol=1e-6)
