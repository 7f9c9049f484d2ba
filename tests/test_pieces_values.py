"""Values of every kind go from piece to piece, and feeds are taken as a session takes them."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnx_compress.ir.errors import InvalidError, UnsupportedError
from onnx_compress.ir.runtime import (
    Session,
)
from onnx_compress.ir.runtime.pieces import Pieces

from graphs import parsed, view
from heavy_models import MODELS, SIDE, four, square
from in_pieces import (
    assert_equal,
    feeds,
    in_pieces,
    whole,
)

# -------------------------------------------------------------------------- other kinds of values


def cast(element: int) -> str:
    """A value of this type that goes over a piece."""
    return (
        f"p = MatMul(x, a) t = Cast<to = {element}>(p) q = MatMul(p, b) r = MatMul(q, c) "
        "u = Cast<to = 1>(t) y = Add(r, u)"
    )


KINDS = {
    "strings": cast(TensorProto.STRING),
    "halves": cast(TensorProto.FLOAT16),
    "doubles": cast(TensorProto.DOUBLE),
    "bytes": cast(TensorProto.INT8),
    "booleans": "p = MatMul(x, a) t = Greater(p, k) q = MatMul(p, b) r = MatMul(q, c) "
    "y = Where(t, q, r)",
    "scalars": "p = MatMul(x, a) t = ReduceMax<keepdims = 0>(p) q = MatMul(p, b) y = Mul(q, t)",
    "no rows": "p = MatMul(x, a) e = Constant<value = int64[1] {0}>() t = Slice(p, e, e, e) "
    "q = MatMul(p, b) r = MatMul(q, c) y = Concat<axis = 0>(t, r)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_any_kind_go_from_piece_to_piece(kind):
    proto = four(KINDS[kind])
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, optimize=False), expected)


SPECIAL = {
    "a sequence": "p = MatMul(x, a) t = SplitToSequence<axis = 1>(p) q = MatMul(p, b) "
    "r = MatMul(q, c) u = ConcatFromSequence<axis = 1>(t) y = Add(r, u)",
    "bfloat16": cast(TensorProto.BFLOAT16),
}


def assert_works_or_is_named(proto: ModelProto, samples, name: str) -> None:
    try:
        found = in_pieces(proto, samples)
    except UnsupportedError as error:
        assert ("--memory" in error.hint, error.where) == (True, name)  # noqa: PT017
        return
    assert_equal(found, whole(proto, samples), tolerance=1e-5)


@pytest.mark.parametrize("kind", SPECIAL)
def test_values_that_cannot_go_from_piece_to_piece_work_or_are_named(kind):
    proto = four(SPECIAL[kind])
    assert_works_or_is_named(proto, feeds(proto), "t")


def test_sequences_given_to_a_model_work_or_are_named():
    proto = four(
        "p = MatMul(x, a) u = ConcatFromSequence<axis = 0>(s) q = MatMul(p, b) y = Add(q, u)"
    )
    proto.graph.input.append(helper.make_tensor_sequence_value_info("s", 1, None))
    x = np.ones((2, SIDE), np.float32)
    assert_works_or_is_named(proto, [{"x": x, "s": [x[:1], x[1:]]}], "s")


@pytest.mark.parametrize("dtype", [object, "U4"])
def test_strings_are_given(dtype):
    proto = four("t = Cast<to = 1>(s) p = MatMul(x, a) q = Mul(p, t) y = MatMul(q, b)",
                 inputs="float[N,32] x, string[1] s")  # fmt: skip
    sample = {**feeds(proto, 1)[0], "s": np.array(["1.5"], dtype)}
    expected = whole(proto, [sample], optimize=False)
    assert_equal(in_pieces(proto, [sample], optimize=False), expected)


def test_strings_of_constant_nodes_are_given_out():
    proto = four(
        's = Constant<value_strings = ["one", "two"]>() p = MatMul(x, a) y = MatMul(p, b)',
        "float[N,32] y, string[2] s",
    )
    samples = feeds(proto)
    assert_equal(in_pieces(proto, samples, optimize=False), whole(proto, samples, optimize=False))


RANDOM = {
    "an operator": ("r = RandomNormalLike(k)", ""),
    "a function": (
        "r = local.noise(k)",
        '<domain: "local", opset_import: ["" : 19]> noise (v) => (w) { w = RandomNormalLike(v) }',
    ),
    "Dropout": ("h = Constant<value = float {0.5}>() on = Constant<value = bool {1}>() "
                "r = Dropout(z, h, on)", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_drawn_once(kind):
    nodes, functions = RANDOM[kind]
    proto = parsed(
        f"""<ir_version: 8, opset_import: ["" : 19, "local" : 1]>
        g (float[N,32] x) => (float first, float last) {{
            {nodes} p = MatMul(x, a) first = Mul(p, r) q = MatMul(p, b) s = Sub(q, q)
            t = MatMul(s, c) e = Neg(k) f = Mul(t, e) u = Add(f, p) last = Mul(u, r) }}
        {functions}""",
        **{name: square(at) for at, name in enumerate("abc")},
        k=np.float32([0.5] * SIDE),
        z=np.ones(SIDE, np.float32),
    )
    for result in (proto.graph.output[0], proto.graph.output[1]):
        result.type.tensor_type.ClearField("shape")
    (first, last), = in_pieces(proto, feeds(proto, 1), optimize=False)  # fmt: skip
    np.testing.assert_array_equal(first, last)


# ----------------------------------------------------------------------------------------- feeds


def test_an_initializer_that_is_given_overrides_the_stored_one():
    proto = MODELS["weights that can be overridden"]()
    (sample,) = feeds(proto, 1)
    sample["c"] = square(50)
    expected = whole(proto, [sample], optimize=False)
    assert_equal(in_pieces(proto, [sample], optimize=False), expected, tolerance=1e-5)


def test_an_initializer_that_can_be_overridden_is_given_out():
    proto = with_output(MODELS["weights that can be overridden"](), "c")
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, optimize=False), expected, tolerance=1e-5)


def with_output(proto: ModelProto, name: str) -> ModelProto:
    proto.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    return proto


def test_an_input_is_given_out():
    proto = with_output(MODELS["a chain"](), "x")
    samples = feeds(proto)
    expected = whole(proto, samples, optimize=False)
    assert_equal(in_pieces(proto, samples, optimize=False), expected)


X = np.ones((2, SIDE), np.float32)
WRONG = {
    "nothing": {},
    "another name": {"z": X},
    "one too many": {"x": X, "z": X},
    "doubles": {"x": X.astype(np.float64)},
    "integers": {"x": X.astype(np.int64)},
    "another width": {"x": np.ones((2, SIDE + 1), np.float32)},
    "another width that broadcasts": {"x": np.ones((2, 1), np.float32)},
    "another rank": {"x": np.ones((2, 2, SIDE), np.float32)},
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("start", ["p = MatMul(x, a)", "s = Relu(x) i = Neg(s) p = Add(i, l)"])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_inputs_are_refused_as_by_a_session(kind, start, place):
    proto = four(f"{start} q = Relu(p) r = Neg(q) y = Add(r, l)")
    samples = [{"x": X}, {"x": X}]
    samples[place] = WRONG[kind]
    for run in (whole, in_pieces):
        with pytest.raises(InvalidError, match="does not run"):
            run(proto, samples)


@pytest.mark.parametrize(
    "kind", "float double float16 bfloat16 int8 uint8 int32 int64 bool string".split()
)
def test_inputs_and_outputs_are_described_as_by_a_session(kind):
    model = view(f"({kind}[N,2] x, {kind}[3] z, {kind} s) => ({kind}[N,2] y) {{ y = Identity(x) }}")
    ours, theirs = Pieces(model), Session(model)
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
