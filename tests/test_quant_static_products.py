"""quant: products of matrices whose inputs are bytes with scales that samples gave."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_compress.ir.graph import from_proto, invariants, to_proto
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.quant import Quant
from onnx_compress.passes.quant.static import guard
from onnx_compress.passes.quant.static import place as placing

from low_bit_nodes import checked
from models_by_text import all_ops, build, reasons, run

AVX2 = targets.load("avx2")
WANTS = dataclasses.replace(  # products of bytes everywhere
    AVX2,
    speed={**AVX2.speed, "static": [[1, 1, 9.0, 9.0, 9.0]]},
    convolutions={"static": [[1, 1, 1, 4.0]]},
    conversion=0.01,
    start=0,
)
FAST = dataclasses.replace(
    WANTS, speed={"dynamic": [[1, 1, 2.0, 2.0, 2.0]], "static": [[1, 1, 9.0, 9.0, 9.0]]}
)
NEVER = dataclasses.replace(WANTS, speed={**AVX2.speed, "static": [[1, 1, 0.5, 0.5, 0.5]]})


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def feeds(*shape, count=8):
    return [{"x": draw(*shape, seed=100 + at)} for at in range(count)]


def quant(proto, fit, target=WANTS, **options):
    model = from_proto(proto)
    report = Quant(**{"bits": 8, "activations": "int8", **options}).run(
        model, Context(target, fit[0], fit)
    )
    invariants.check(model)
    return to_proto(model), report


def error(proto, small, fit):
    pairs = [(run(proto, feed)[0], run(small, feed)[0]) for feed in fit]
    noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return float(np.sqrt(noise / sum(float((a**2).sum()) for a, _ in pairs)))


def ran(small, feed):
    """Operators of the graph that the runtime makes, and what they compute is recomputed."""
    found = checked(from_proto(small), feed)
    assert not found.findings, [str(each) for each in found.findings]
    assert all(node.result in ("exact", "within") for node in found.nodes), found.nodes
    return found.operators


W, V = draw(64, 96) / 8, draw(96, 32, seed=1) / 10
TWO = "g (float[N,64] x) => (float[?,?] y) { h = Gemm(x, w, b) r = Relu(h) y = Gemm(r, v, c) }"
TWO_NUMBERS = {"w": W, "b": draw(96, seed=2), "v": V, "c": draw(32, seed=3)}


def two():
    return build(TWO, **TWO_NUMBERS)


def plain(model, *_):
    """In place of smoothing, which puts a Mul between two layers."""
    from onnx_compress.passes.quant.smooth import Smoothed

    return Smoothed(model)


@pytest.fixture
def unsmoothed(monkeypatch):
    monkeypatch.setattr("onnx_compress.passes.quant.encode.smooth", plain)


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        (TWO, (16, 64), {"QGemm": 2, "QuantizeLinear": 1}),
        (
            "g (float[N,64] x) => (float[?,?] y) {"
            "h = MatMul(x, w) a = Add(b, h) r = Relu(a) y = MatMul(r, v) }",
            (16, 64),
            {"QGemm": 1, "MatMulIntegerToFloat": 1, "QuantizeLinear": 1},
        ),
        (
            "g (float[N,64] x) => (float[?,?] y) { h = MatMul(x, w) y = MatMul(h, v) }",
            (16, 64),
            {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1, "QuantizeLinear": 1},
        ),
        (
            "g (float[2,6,64] x) => (float[?,?,?] y) {"
            "h = MatMul(x, w) a = Add(h, b) r = Relu(a) z = MatMul(r, v) y = Add(z, c) }",
            (2, 6, 64),
            {"QGemm": 2, "QuantizeLinear": 1, "Reshape": 3},
        ),
        (
            "g (float[N,6,64] x) => (float[?,?,?] y) {"
            "h = MatMul(x, w) a = Add(h, b) r = Relu(a) z = MatMul(r, v) y = Add(z, c) }",
            (2, 6, 64),
            {"QGemm": 2, "QuantizeLinear": 1, "Reshape": 4},
        ),
        (  # the lengths of two axes are not known: it stays MatMul, and so does the Add
            "g (float[N,M,64] x) => (float[?,?,?] y) { h = MatMul(x, w) a = Add(h, b) y = Exp(a) }",
            (2, 6, 64),
            {"QLinearMatMul": 1, "QLinearAdd": 1, "QuantizeLinear": 1},
        ),
        (  # what is added is no bias: the runtime would make a Gemm of floats of it
            "g (float[N,64] x) => (float[?,?] y) { s = Softmax(x) h = MatMul(x, u) y = Add(h, s) }",
            (16, 64),
            {"QGemm": 1, "QuantizeLinear": 2},
        ),
        (  # and a product of floats, if a Relu followed without anything between
            "g (float[N,64] x) => (float[?,?] y) { h = Gemm(x, w, b) r = Relu(h) y = Exp(r) }",
            (16, 64),
            {"QGemm": 1, "QuantizeLinear": 1, "Max": 1, "Relu": 1},
        ),
        (
            "g (float[N,64] x) => (float[?,?] y) "
            "{ h = MatMul(x, w) r = Clip(h, low, high) y = Exp(r) }",
            (16, 64),
            {"MatMulIntegerToFloat": 1, "QuantizeLinear": 1, "Max": 1, "Clip": 1},
        ),
        (
            """g (float[1,8,8,8] x) => (float[?,?] y) {
            a = Conv<pads=[1,1,1,1]>(x, k) r = Relu(a)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) f = Flatten(m)
            h = Gemm(f, q, b) t = Relu(h) y = Gemm(t, v, c) }""",
            (1, 8, 8, 8),
            {"QLinearConv": 1, "QGemm": 2, "QuantizeLinear": 1, "Flatten": 1},
        ),
    ],
)
def test_what_is_written_is_fused(text, shape, expected, unsmoothed):
    numbers = {**TWO_NUMBERS, "u": draw(64, 64, seed=4) / 8}
    numbers |= {"k": draw(64, 8, 3, 3, seed=5) / 8, "q": draw(1024, 96, seed=6) / 32}
    numbers |= {"low": np.float32(-1), "high": np.float32(2)}
    used = {name: array for name, array in numbers.items() if name in _words(text)}
    proto, fit = build(text, **used), feeds(*shape)
    small, report = quant(proto, fit)
    assert "static" in report.summary
    found = ran(small, fit[0])
    names = {name.removeprefix("com.microsoft."): count for name, count in found.items()}
    assert {name: names.get(name, 0) for name in expected} == expected
    for op in ("Gemm", "MatMul", "FusedGemm", "Conv", "DynamicQuantizeMatMul"):
        assert op not in names
    assert error(proto, small, feeds(*shape, count=4)) < 0.03


def _words(text):
    return {word.strip("(){},") for part in text.split() for word in part.replace("(", " ").split()}


# --------------------------------------------------------------------------------- the numbers


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_products_give_what_our_kernels_give(data):
    """Bias, factors, layout, axes, what follows: bit for bit, or within a step of rounding."""
    k, n = (data.draw(st.integers(20, 40)) for _ in range(2))
    turned = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(["Gemm", "MatMul", "MatMul of three axes"]))
    bias = data.draw(st.sampled_from([None, (n,), (1, n), (1,), ()]))
    follows = data.draw(st.sampled_from(["Identity", "Relu", "Tanh", "Sigmoid"]))
    alpha, beta = (data.draw(st.sampled_from([1.0, 0.5, -2.0])) for _ in range(2))
    numbers = {"w": draw(n, k) / 4 if turned and kind == "Gemm" else draw(k, n) / 4}
    if bias is not None:
        numbers["b"] = draw(*bias, seed=1) if bias else np.float32(0.7)
    last = ", b" if bias is not None else ""
    if kind == "Gemm":
        options = f"alpha = {alpha:.1f}, beta = {beta:.1f}, transB = {int(turned)}"
        line = f"h = Gemm <{options}> (x, w{last})"
    else:
        line = "m = MatMul (x, w)  " + ("h = Add (m, b)" if last else "h = Identity (m)")
    shape = (3, 6, k) if kind == "MatMul of three axes" else (18, k)
    dims = ", ".join(["N", *map(str, shape[1:])])
    numbers["v"] = draw(n, 24, seed=2) / 4
    text = f"g (float[{dims}] x) => (float y) {{ {line}  r = {follows} (h)  y = MatMul (r, v) }}"
    proto, fit = build(text, **numbers), feeds(*shape)
    small, report = quant(proto, fit)
    assert "2 static" in report.summary
    ran(small, fit[1])
    fused, unfused = run(small, fit[2])[0], run(small, fit[2], optimized=False)[0]
    assert np.linalg.norm(fused - unfused) <= 0.02 * np.linalg.norm(unfused)
    assert error(proto, small, fit) < 0.06


def test_codes_keep_out_of_saturation():
    small, _ = quant(two(), feeds(16, 64))
    arrays = [numpy_helper.to_array(t) for t in small.graph.initializer if t.data_type == 3]
    codes = [array.astype(int) for array in arrays if array.ndim == 2]
    assert len(codes) == 2
    for each in codes:
        assert np.abs(each[:-1:2] + each[1::2]).max() <= 128
        assert np.abs(each).max() > 90


def test_a_bias_of_dead_rows_keeps_in_32_bits():
    numbers = dict(TWO_NUMBERS, w=W.copy())
    numbers["w"][:, 5] *= 1e-30
    proto, fit = build(TWO, **numbers), feeds(16, 64)
    small, _ = quant(proto, fit)
    assert error(proto, small, fit) < 0.03


def test_means_that_have_shifted_are_taken_off(unsmoothed):
    proto, fit = two(), feeds(16, 64)
    small, _ = quant(proto, fit)
    before, after = (np.mean([run(m, f)[0] for f in fit], (0, 1)) for m in (proto, small))
    assert np.abs(before - after).max() < 0.01


# ----------------------------------------------------------------------------------- the choice


def static(report):
    return sum("static" in entry.text for entry in report.changes)


def test_the_target_decides():
    fit = feeds(16, 64)
    for target, count in (
        (WANTS, 2),
        (NEVER, 0),
        (dataclasses.replace(WANTS, speed=dict(AVX2.speed, static=[])), 0),
    ):
        assert static(quant(two(), fit, target)[1]) == count


@pytest.mark.parametrize(("static_", "expected"), [(2.0, 0), (2.05, 0), (2.3, 2)])
def test_it_has_to_be_faster_than_a_dynamic_product(static_, expected, unsmoothed):
    """Ranges of samples are worse than those of the run itself."""
    speed = {"dynamic": [[1, 1, 2.0, 2.0, 2.0]], "static": [[1, 1, static_, static_, static_]]}
    small, report = quant(two(), feeds(16, 64), dataclasses.replace(WANTS, speed=speed))
    assert static(report) == expected
    assert ("DynamicQuantizeLinear" in all_ops(small)) == (not expected)


def test_turning_numbers_is_counted():
    dear = dataclasses.replace(WANTS, conversion=1e6)
    assert static(quant(two(), feeds(16, 64), dear)[1]) == 0


def test_an_input_that_bytes_hold_badly_stays_float():
    """One number so large, of so many, that a step is as large as most of them."""
    fit = feeds(400, 64)
    for feed in fit:
        feed["x"][2, 3] = 1e4
    proto = build(
        "g (float[N,64] x) => (float[?,?] y) { n = Neg(x) y = Gemm(n, w, b) }",
        w=W,
        b=TWO_NUMBERS["b"],
    )
    for least, count in ((18.0, 0), (0.0, 1)):
        assert static(quant(proto, fit, least_db=least)[1]) == count


def test_without_data_nothing_is_static():
    model = from_proto(two())
    Quant(bits=8).run(model, Context(WANTS, feeds(16, 64)[0]))
    assert "QuantizeLinear" not in all_ops(to_proto(model))


@pytest.mark.parametrize(
    "text",
    [
        "h = Gemm <transA = 1> (x, w)",
        "h = MatMul (w2, x)",
        "a = MatMul (x, w) c = MatMul (x, w) h = Sub (a, c)",
        "h = Gemm (x, w, d)",
    ],
)
def test_what_the_runtime_does_not_fuse_is_left(text):
    proto = build(
        f"g (float[64,64] x, float[64,96] d) => (float[?,?] y) {{ {text} y = Exp(h) }}",
        **{n: a for n, a in (("w", W), ("w2", W[:, :64])) if f"{n}," in text or f"{n})" in text},
    )
    fit = [{**feed, "d": draw(64, 96)} for feed in feeds(64, 64)]
    _, report = quant(proto, fit)
    assert not static(report)


def test_a_product_that_makes_most_of_the_error_is_not_static(monkeypatch, unsmoothed):
    """It stays what it would have been: a product of bytes that are made at run time, say."""
    last = lambda self, taken: ({taken[-1].node: 0.6}, set())  # noqa: E731
    monkeypatch.setattr(placing.Placement, "spared", last)
    small, report = quant(two(), feeds(16, 64), FAST, activations=None)
    assert "1 dynamic, 1 static" in report.summary
    assert "60% of the error" in reasons(report)
    assert {"DynamicQuantizeLinear", "QuantizeLinear"} <= all_ops(small)


def test_error_decides_which_inputs_are_bytes(unsmoothed):
    """What is rare, and large, where it comes: ranges of least squared error cut it off."""
    fit = feeds(8, 64, count=16)
    rng = np.random.default_rng(0)
    for feed in fit:
        feed["x"] *= 0.05
        feed["x"][rng.integers(8), rng.integers(64)] = 8
    proto = build(
        "g (float[N,64] x) => (float[?,?] y) "
        "{ n = Neg(x) a = Gemm(n, w, b) t = Tanh(a) y = Gemm(t, v, c) }",
        **TWO_NUMBERS,
    )
    _, chosen = quant(proto, fit, FAST, activations=None, least_db=0.0)
    _, forced = quant(proto, fit, FAST, least_db=0.0)
    assert static(chosen) < static(forced) == 2
    assert "of the error" in reasons(chosen)


@pytest.mark.parametrize(("wide", "bytes_"), [(2.0, True), (1e3, False)])
def test_factors_that_bytes_hold_badly_stay_floats(wide, bytes_, unsmoothed):
    """Those of smoothing, between two products, are very unlike."""
    factors = np.geomspace(1, wide, 96, dtype="float32")
    proto = build(
        "g (float[N,64] x) => (float[?,?] y) { h = Gemm(x, w, b) m = Mul(h, f) y = Gemm(m, v, c) }",
        f=factors,
        **dict(TWO_NUMBERS, v=V / factors[:, None]),
    )
    fit = feeds(32, 64)
    small, _ = quant(proto, fit, dataclasses.replace(WANTS, operators={"Mul": 9.0}))
    (node,) = [node for node in small.graph.node if node.op_type == "Mul"]
    makers = {n.op_type for n in small.graph.node if set(n.output) & set(node.input)}
    assert ("DequantizeLinear" in makers) == bytes_


def test_an_input_smoothed_by_a_node_is_made_bytes_at_run_time():
    """Bytes before that Mul would lose what is small, and is made large by it."""
    fit = feeds(64, 64)
    for feed in fit:
        feed["x"][:, ::16] *= 30
    proto = build(
        "g (float[N,64] x) => (float[?,?] y) { n = Neg(x) y = Gemm(n, w, b) }",
        w=W,
        b=TWO_NUMBERS["b"],
    )
    small, report = quant(proto, fit, FAST)
    assert static(report) == 0
    assert any("smoothed" in note for note in report.notes)
    (before, after) = (run(m, fit[0])[0] for m in (proto, small))
    assert np.linalg.norm(before - after) < 0.02 * np.linalg.norm(before)


# ----------------------------------------------------------------------------------- promises


def test_equal_inputs_give_equal_bytes():
    first, second = (quant(two(), feeds(16, 64))[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_second_run_changes_nothing():
    fit = feeds(16, 64)
    small, _ = quant(two(), fit)
    again, report = quant(small, fit)
    assert not [entry for entry in report.changes if entry.subject != "operator set"]
    assert len(again.graph.node) == len(small.graph.node)


@pytest.mark.parametrize(("k", "n"), [(4, 40), (8, 8), (8, 60), (16, 24), (24, 100)])
def test_a_small_model_does_not_grow(k, n):
    """A Reshape, a zero point and a scale of the bias may outweigh what codes save."""
    numbers = {"w": draw(k, n), "b": draw(n), "v": draw(n, k), "c": draw(k)}
    proto = build(
        "g (float[N,6,K] x) => (float[?,?,?] y) { h = MatMul(x, w) a = Add(h, b) r = Relu(a) "
        "z = MatMul(r, v) y = Add(z, c) }".replace("K", str(k)),
        **numbers,
    )
    small, report = quant(proto, feeds(3, 6, k))
    assert small.ByteSize() <= proto.ByteSize() or not static(report)


def test_what_is_left_float_is_left_as_it_was():
    """Gemm is written where bytes go in, and nowhere else."""
    text = "g (float[N,64] x) => (float[?,?] y) { h = MatMul(x, w) y = Add(h, b) }"
    proto = build(text, w=W, b=TWO_NUMBERS["b"])
    small, _ = quant(proto, feeds(16, 64), NEVER, activations="float")
    assert "Gemm" not in all_ops(small)


def test_a_relu_behind_bytes_needs_no_guard(unsmoothed):
    small, _ = quant(two(), feeds(16, 64))
    assert guard.guard(from_proto(small)) == 0
    assert not {"Max", "Relu"} & all_ops(small)
