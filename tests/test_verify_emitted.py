"""Emitted: every form is read back from the graph, and one that was written wrongly is named."""

from random import Random

import numpy as np
import pytest

from onnx_compress import compress
from onnx_compress.bench.planted.emitted import KINDS, Faulty
from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.graph import clone
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.effective import effective
from onnx_compress.ir.weights.forms import Affine, Dense, Half
from onnx_compress.passes.verify.diagnosis import diagnose
from onnx_compress.passes.verify.emitted import emit, unread_note

from coded_weights import BODIES, allowed, coded, sample
from graphs import array, only, view

READERS = ("codec", "dynamic", "gathered", "dequantize")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", BODIES)
def test_every_reader_of_every_operator_is_read_back(name, reader):
    model, _ = sample(name)
    for weight in find_weights(model):
        form = coded(weight, reader)
        if allowed(form, weight):
            assert emit(form, weight) == ()


@pytest.mark.parametrize("name", BODIES)
def test_what_is_read_back_is_what_the_form_decodes_to(name):
    model, _ = sample(name)
    plain = clone(model)
    for weight in find_weights(model):
        form = coded(weight)
        form.emit(weight)
        twin = next(other for other in find_weights(plain) if other.name == weight.name)
        Dense(form.decode()).emit(twin)
    for one, other in zip(effective(model), effective(plain), strict=True):
        np.testing.assert_array_equal(one.numbers(), other.numbers())


@pytest.mark.parametrize("name", ["Conv", "MatMul", "Gather", "LSTM"])
def test_halves_and_plain_numbers_are_read_back(name):
    for make in (Half.of, lambda weight: Dense(2 * weight.array())):
        model, _ = sample(name)
        for weight in find_weights(model):
            assert emit(make(weight), weight) == ()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_form_that_is_written_wrongly_is_named(kind, reader):
    text = {
        "gathered": "(int64[3] i) => (float y) { y = Gather(w, i) }",
    }.get(reader, "(float[3,16] x) => (float y) { y = MatMul(x, w) }")
    model = view(text, w=array(16, 16))
    weight = only(model)
    form = coded(weight, reader)
    made = KINDS[kind](form, Random(1))
    if made is None or np.array_equal(made.decode(), form.decode()):
        pytest.skip("the same numbers")
    if not allowed(made, weight):
        pytest.skip("refused")
    with pytest.raises(VerificationError) as caught:
        emit(Faulty(form, made), weight)
    assert "w was not written as it was chosen" in caught.value.message
    assert caught.value.where


def test_compress_ends_with_the_name_of_the_node(monkeypatch, digits):
    decoded = Affine.decode
    monkeypatch.setattr(Affine, "decode", lambda form: decoded(form) / np.float32(1.01))
    with pytest.raises(VerificationError) as caught:
        compress(digits, "quant(bits=8, activations='float')", measure=False)
    assert caught.value.exit_code == 4
    assert "1.01 times what it should be" in caught.value.message


def test_gemm_with_a_factor_is_read_back_within_rounding():
    text = "(float[3,16] x) => (float y) { y = Gemm<alpha = 0.7, transB = 1>(x, w, b) }"
    for reader in ("codec", "dynamic", "dequantize"):
        model = view(text, w=array(8, 16), b=array(8))
        weight = only(model)
        assert emit(coded(weight, reader), weight) == ()


def test_forms_of_other_shapes_are_read_by_the_identity():
    """A product of two factors: nothing that reads weights back knows it."""
    model = view("(float[3,16] x) => (float y) { y = MatMul(x, w) }", w=array(16, 12))
    weight = only(model)
    left, right = np.abs(array(16, 4)), np.abs(array(4, 12))  # sums are nowhere near zero

    class Factors:
        name = "factors"
        scale = 1.0

        def decode(self):
            return (left @ right).astype(np.float32)

        def nbytes(self):
            return left.nbytes + right.nbytes

        def emit(self, weight):
            (use,) = weight.uses
            add = model.add_constant
            first = add(model.graph, left, "l"), add(model.graph, self.scale * right, "r")
            inner = model.add_node(model.graph, "MatMul", [use.node.inputs[0], first[0]])
            out = model.add_node(model.graph, "MatMul", [inner, first[1]])
            model.replace_uses(use.node.output, out)
            model.remove(use.node)

    class Wrong(Factors):
        scale = np.float32(1.5)

    other = clone(model)
    assert emit(Factors(), weight) == ()
    model, weight = other, only(other)
    with pytest.raises(VerificationError, match=r"1\.5 times"):
        emit(Wrong(), weight)


def test_operators_that_cannot_be_read_back_are_told():
    assert unread_note(()) == ()
    assert "of a and 1 more" in unread_note(("a", "b"))[0]


ONE = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (ONE.T, "transposed"),
        (ONE.T.reshape(3, 4), "laid out the other way round"),
        (ONE + 2, "off by +2 steps"),
        (ONE * 3, "3 times what it should be"),
        (ONE * np.array([1, 2, 1, 1], np.float32), "1 of 4 scales along axis 1 are wrong (1)"),
        (ONE[::-1], "in another order"),
        (ONE + np.eye(3, 4, dtype=np.float32) * 0.3, "3 of 12 numbers differ ([0, 0]"),
        (ONE[:2], "its shape is [2, 4]"),
    ],
)
def test_a_difference_is_explained_as_simply_as_it_can_be(got, said):
    assert said in diagnose(ONE, got, np.ones_like(ONE))
