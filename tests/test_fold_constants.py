"""fold: what is computed beforehand, what is left to run time, and that numbers stay the same."""

import numpy as np
import pytest
from onnx import numpy_helper

from models_by_text import (
    RNG,
    assert_same,
    build,
    draw,
    fold,
    ops,
    run,
    same_numbers_in_any_order,  # noqa: F401
)


def test_arithmetic_of_constants_becomes_its_result():
    proto = build(
        "g (float[N,2] x) => (float[N,2] y) { p = Mul (c3, c4)  q = Add (c2, p)  y = Add (x, q) }",
        c2=np.float32([2]),
        c3=np.float32([3]),
        c4=np.float32([4]),
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Add"]
    assert [numpy_helper.to_array(t).tolist() for t in folded.graph.initializer] == [[14.0]]
    assert_same(proto, folded, {"x": draw(3, 2)})


def test_constant_nodes_count_as_constants():
    proto = build(
        "g (float[N,2] x) => (float[N,2] y) "
        "{ a = Constant <value_float=3.0> ()  b = Constant <value = float[1] {4.0}> ()"
        "  q = Mul (a, b)  y = Add (x, q) }"
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Add"]
    assert_same(proto, folded, {"x": draw(3, 2)})


def test_a_fixed_shape_is_a_constant_and_an_open_one_is_not():
    lines = "s = Shape (x)  t = Slice (s, zero, two)  y = Reshape (z, t)"
    numbers = {"zero": np.int64([0]), "two": np.int64([2])}
    fixed = build(f"g (float[3,4,5] x, float[12] z) => (float[?,?] y) {{ {lines} }}", **numbers)
    free = build(f"g (float[N,4,5] x, float[12] z) => (float[?,?] y) {{ {lines} }}", **numbers)
    feed = {"x": draw(3, 4, 5), "z": draw(12)}
    assert ops(fold(fixed)[0]) == ["Reshape"]
    assert ops(fold(free)[0]) == ["Reshape", "Shape", "Slice"]
    assert_same(fixed, fold(fixed)[0], feed)
    assert_same(free, fold(free)[0], feed)


@pytest.mark.parametrize("attributes", ["start=1", "end=-1", "start=-2, end=5", "start=1, end=1"])
def test_part_of_a_shape_is_the_right_part(attributes):
    proto = build(
        f"g (float[3,4,5] x) => (int64[?] y) {{ s = Shape <{attributes}> (x)  y = Add (s, k) }}",
        k=np.int64([10]),
    )
    folded, _ = fold(proto)
    assert "Shape" not in ops(folded)
    assert_same(proto, folded, {"x": draw(3, 4, 5)})


KEPT = {
    "DequantizeLinear": "W = DequantizeLinear (q, s)",
    "Cast of codes": "W = Cast <to=1> (q)",
    "codec": "f = Cast <to=1> (q)  W = Mul (f, s)",
    "codec with zero point": "f = Cast <to=1> (q)  d = Sub (f, z)  W = Mul (d, s)",
    "half": "W = Cast <to=1> (h)",
    "RandomNormal": "W = RandomNormal <shape=[8,40]> ()",
    "RandomNormalLike": "W = RandomNormalLike (r)",
    "RandomUniformLike": "W = RandomUniformLike (r)",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", KEPT)
def test_small_forms_and_random_numbers_stay(name):
    proto = build(
        f"g (float[N,8] x) => (float[N,40] y) {{ {KEPT[name]}  y = MatMul (x, W) }}",
        q=RNG.integers(-127, 128, (8, 40)).astype("int8"),
        s=np.float32(0.02),
        z=np.float32(3),
        h=draw(8, 40, dtype="float16"),
        r=draw(8, 40),
    )
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    folded, report = fold(proto)
    assert not report.modified
    assert ops(folded) == ops(proto)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("w = Div (minus, three)", "int64"),
        ("w = Cast <to=2> (wild)", "uint8"),
        ("w = Cast <to=3> (wild)", "int8"),
        ("w = Cast <to=12> (wild)", "uint32"),
        ("w = Cast <to=13> (wild)", "uint64"),
        ("w = Cast <to=9> (wild)", "bool"),
        ("w = Cast <to=6> (big)", "int32"),
        ("w = Cast <to=10> (wild)", "float16"),
        ("w = Div (minusf, zerof)", "float"),
        ("w = Max (nan, minusf)", "float"),
        ("w = Min (nan, minusf)", "float"),
        ("w = Sign (nan)", "float"),
        ("w = Sqrt (minusf)", "float"),
        ("w = Mul (big, big)", "int64"),
        ("w = Neg (zerof)", "float"),
        ("w = Slice (minusf, last, first, axis0, back)", "float"),
        ("w = Gather (minusf, last)", "float"),
        ("w = Unsqueeze (minusf, last)", "float"),
        ("w = Ceil (minusf)", "float"),
        ("w = Abs (minus)", "int64"),
        ("w, w2 = Split (minusf, parts)", "float"),
        ("w = Greater (nan, minusf)", "bool"),
        ("w = ScatterND (minusf, axis0n, onef)", "float"),
    ],
)
def test_constants_are_what_the_runtime_would_have_computed(line, kind):
    """Or they are not folded: what counts is that nothing changes."""
    proto = build(
        f"g (bool c) => ({kind}[?] y) {{ {line}  v = Flatten <axis=0> (w)  f = Reshape (v, flat)"
        "  y = Concat <axis=0> (f, f) }",
        minus=np.int64([-7, 7, -1]),
        three=np.int64([2, 2, 3]),
        minusf=np.float32([-7.5, 7, -0.0]),
        zerof=np.float32([0, 0, 0]),
        onef=np.float32([9.0]),
        nan=np.float32([np.nan, 1, np.inf]),
        wild=np.float32([-1.5, 300.7, 70000.0]),
        big=np.int64([2**40 + 5, -(2**62), 2**31]),
        last=np.int64([-1]),
        first=np.int64([-100]),
        back=np.int64([-1]),
        axis0=np.int64([0]),
        axis0n=np.int64([[0]]),
        parts=np.int64([1, 2]),
        flat=np.int64([-1]),
    )
    folded, _ = fold(proto)
    feed = {"c": np.array(True)}
    (expected,), (actual,) = run(proto, feed, optimized=False), run(folded, feed, optimized=False)
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes() or (
        np.isnan(expected).any() and np.array_equal(actual, expected, equal_nan=True)
    )


def test_an_output_that_is_constant_stays_made_by_a_node():
    proto = build(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Neg (c)  z = Neg (x) }", c=draw(2)
    )
    folded, _ = fold(proto)
    assert ops(folded) == ["Neg", "Neg"]
    assert_same(proto, folded, {"x": draw(2)})


def test_an_initializer_that_callers_may_override_is_no_constant():
    proto = build(
        "g (float[2] x, float[2] c) => (float[2] y) { d = Neg (c)  y = Add (x, d) }", c=draw(2)
    )
    folded, report = fold(proto)
    assert not report.modified
    feed = {"x": draw(2), "c": draw(2)}
    assert_same(proto, folded, feed)
