"""Forms: after `emit` the model loads, and gives the very bits that `decode` says."""

import numpy as np
import pytest

from onnx_compress.ir.graph import from_proto, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import Dense, Half

from coded_weights import BODIES, coded, emitted, same_bits, sample
from graphs import array, run, view


def rounding(name: str, optimize: bool = True) -> float:
    """How far sums may differ: the runtime has several kernels for the same product."""
    fused = optimize and name.startswith("Gather") and "MatMul" in name
    return 1e-5 if fused or not optimize else 0.0


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
            Half.of,
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
    made = Half.of(weight) if form == "half" else coded(weight, form, axes)
    expected = made.decode()
    made.emit(weight)
    whole, picked, turned = run(from_proto(to_proto(model)), i=np.array([2, 0]))
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
