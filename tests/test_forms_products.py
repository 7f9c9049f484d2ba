"""Products read as integers are close to those of floats, for every spelling of Gemm too."""

from itertools import product

import pytest

from onnx_compress.ir.weights.forms import affine

from coded_weights import BODIES, allowed, close, coded, emitted, same_bits, sample
from graphs import array, view

# --------------------------------------------------------------------------- integer products


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
