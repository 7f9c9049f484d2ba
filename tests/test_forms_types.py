"""Forms in models of every operator set and element type."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_compress.ir.graph import to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import READERS, Dense, Half, minimum_opset

from coded_weights import BODIES, QUANTIZED, allowed, close, coded, emitted, same_bits, sample
from graphs import array, run, view


@pytest.mark.parametrize("reader", READERS)
def test_a_model_of_the_operator_set_that_a_reader_asks_for_loads(reader):
    opset = minimum_opset([reader])
    text = "(float[3,6] x) => (float y) { y = MatMul(x, w) }"
    feed = {"x": array(3, 6)}
    weight = array(6, 8)
    if reader == "gathered":
        text, feed = "(int64[2] i) => (float y) { y = Gather(w, i) }", {"i": np.array([1, 4])}
    if reader == "static":
        text, feed, weight = QUANTIZED, {"x": array(1, 6, 3)}, array(4, 6, 2)
    model = view(text, opset, 3, w=weight)
    small, _ = close(model, feed, lambda weight: coded(weight, reader))
    assert small.opset() == opset
    assert minimum_opset(["codec", reader]) >= opset


def test_half_loads_in_the_oldest_operator_set_of_its_readers():
    for name in ("MatMul", "Gather"):
        body, shapes = BODIES[name]
        model = view(body, 7, 3, w=array(*shapes["w"]))
        feed = sample(name)[1][0]
        same_bits(model, feed, Half.of)


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
        same_bits(model, feed, Half.of)
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
            return Half.of(weight)
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
    once, _, _ = emitted(model, Half.of)
    for reader in ("codec", "gathered"):
        twice, _, _ = emitted(once, lambda weight, r=reader: coded(weight, {"Gather": r}))
        for got, want in zip(run(twice, **feed), run(model, **feed), strict=True):
            assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("shape", [(0, 8), (6, 0)])
def test_weights_without_elements_are_emitted(shape):
    model = view(
        f"(float[3,{shape[0]}] x) => (float y) {{ y = MatMul(x, w) }}", w=np.zeros(shape, "f")
    )
    feed = {"x": array(3, shape[0])}
    for make in (coded, Half.of, lambda w: Dense(w.array())):
        same_bits(model, feed, make)
