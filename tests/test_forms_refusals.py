"""Readers, scales and numbers that are refused; all others are right."""

import numpy as np
import pytest

from onnx_compress.ir.errors import PreconditionError
from onnx_compress.ir.graph import to_bytes
from onnx_compress.ir.graph.patterns import No
from onnx_compress.ir.runtime import Session
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import READERS, Affine, Half

from coded_weights import allowed, close, coded, same_bits, sample
from graphs import array, view


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
    for bad in (np.nan, np.inf):
        values = weight.array().copy()
        values[0, 0] = bad
        model.set_constant(weight.value, values)
        assert not Half.of(weight)
    table, _ = sample("Gather")
    (weight,) = find_weights(table)
    values = weight.array().copy()
    values[0] = -70000  # picked rows have no scale
    table.set_constant(weight.value, values)
    assert not Half.of(weight)


@pytest.mark.parametrize("size", [1e9, 7e4, 1e-3, 1e-5, 1e-30, 0.0])
def test_channels_of_any_size_keep_the_digits_of_float16(size):
    """In float16 alone, numbers below 6e-5 lose digits, and those below 6e-8 are zero."""
    model, feed = sample("Conv")
    (weight,) = find_weights(model)
    values = weight.array().copy()
    values[1] *= np.float32(size / np.abs(values[1]).max())
    model.set_constant(weight.value, values)
    half = Half.of(weight)
    assert np.abs(half.decode() - values)[1].max() <= size * 2**-11
    assert (half.decode()[0] == values[0].astype(np.float16)).all()  # others are as they were
    (expected,) = Session(model).run(feed[0])
    half.emit(weight)
    (found,) = Session(model).run(feed[0])
    assert np.linalg.norm(found[:, 1] - expected[:, 1]) <= 1e-3 * np.linalg.norm(expected[:, 1])
