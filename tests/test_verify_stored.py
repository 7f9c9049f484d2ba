"""Stored: changed weights are named by digests; without them, what stands out is suspect."""

from random import Random

import numpy as np
import pytest

from onnx_compress import compress
from onnx_compress.bench.planted.stored import CODES, SCALES
from onnx_compress.ir.graph import clone, digests, from_proto, to_proto
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.effective import effective
from onnx_compress.ir.weights.forms import Dense, Half
from onnx_compress.passes.verify.finding import Severity
from onnx_compress.passes.verify.pairs import pairs
from onnx_compress.passes.verify.stored import stored

from coded_weights import coded
from graphs import array, parsed, view

TEXT = "(float[N,64] x) => (float y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"


def both(reader: str = "codec", stamped: bool = False, make=None):
    original = view(TEXT, w=array(64, 48), v=array(48, 64))
    small = clone(original)
    for weight in find_weights(small):
        (make or (lambda one: coded(one, reader)))(weight).emit(weight)
    if stamped:
        digests.stamp(small)
    return original, from_proto(to_proto(small))


def named(found) -> set[str]:
    return {one.where for one in found.findings if one.severity >= Severity.SUSPECT}


@pytest.mark.parametrize("reader", ["codec", "dynamic", "dequantize"])
@pytest.mark.parametrize("stamped", [False, True])
def test_sound_weights_raise_no_suspicion(reader, stamped):
    found = stored(*both(reader, stamped))
    assert not found.findings
    assert found.digests == stamped
    assert len(found.weights) == 2
    assert all(0.2 < weight.steps < 0.4 for weight in found.weights)  # rounding: 1 / sqrt(12)


@pytest.mark.parametrize("reader", ["codec", "dynamic"])
@pytest.mark.parametrize("name", [*CODES, *SCALES])
@pytest.mark.parametrize("stamped", [False, True])
def test_a_changed_weight_is_named(name, reader, stamped):
    original, small = both(reader, stamped)
    target = effective(small)[1]
    ending = ".q" if name in CODES else ".s"
    value = next(v for v in small.graph.initializers if v.name == "v" + ending)
    changed = {**CODES, **SCALES}[name](small.constant(value), Random(3))
    if np.array_equal(changed, small.constant(value)):
        pytest.skip("the same numbers")
    small.set_constant(value, changed)
    found = stored(original, small)
    assert named(found) == {value.name if stamped else target.name}
    assert found.changed == ((value.name,) if stamped else ())


def test_a_single_code_is_found_without_digests():
    original, small = both()
    value = next(v for v in small.graph.initializers if v.name == "w.q")
    codes = small.constant(value).copy()
    codes[5, 7] ^= 0x40
    small.set_constant(value, codes)
    (finding,) = stored(original, small).findings
    assert "the first at [5, 7]" in finding.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda codes: np.clip(codes.astype(int) + 2, -128, 127).astype(np.int8), "+2.0 steps off"),
        (lambda codes: np.rint(codes / 2).astype(np.int8), "about 0.5 times the original's"),
    ],
)
def test_a_model_of_one_weight_has_no_others_to_compare_with(change, said):
    original = view("(float[N,64] x) => (float y) { y = MatMul(x, w) }", w=array(64, 48))
    small = clone(original)
    (weight,) = find_weights(small)
    coded(weight).emit(weight)
    assert not stored(original, small).findings
    value = next(v for v in small.graph.initializers if v.name == "w.q")
    small.set_constant(value, change(small.constant(value)))
    (finding,) = stored(original, small).findings
    assert said in finding.text


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packed_codes_are_unpacked_and_compared_in_steps(bits):
    text = "(float[N,64] x) => (float[N,64] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"
    proto = parsed(text, opset=21, ir_version=10, w=array(64, 96), v=array(96, 64))
    result = compress(proto, f"quant(bits={bits})", measure=False, verify=False)
    original, small = from_proto(proto), from_proto(result.model)
    small.set_metadata(digests.KEY, None)
    found = stored(original, small)
    assert not found.findings
    assert [weight.steps is not None for weight in found.weights] == [True, True]
    target = effective(small)[0]
    codes = small.constant(target.codes)
    small.set_constant(target.codes, np.roll(codes.reshape(-1), 3).reshape(codes.shape))
    assert named(stored(original, small)) == {target.name}


def test_a_small_tensor_that_is_no_weight_is_told_of_all_the_same():
    original, small = both("codec", stamped=True)
    small.add_constant(small.graph, np.zeros(3, np.float32), "new")
    found = stored(original, small)
    assert found.changed == ("",)
    assert [one.severity for one in found.findings] == [Severity.WRONG]


def _pruned(weight):
    numbers = weight.array()
    return Dense(np.where(np.abs(numbers) > 0.6, numbers, 0).astype(np.float32))


def _pruned_and_coded(weight):
    _pruned(weight).emit(weight)
    return coded(weight)


def _refitted(weight):
    """As solvers leave it that make up for what they take away: everything moves."""
    numbers = weight.array()
    moved = numbers + 0.05 * np.random.default_rng(2).standard_normal(numbers.shape)
    Dense(moved.astype(np.float32)).emit(weight)
    return coded(weight)


@pytest.mark.parametrize("make", [_pruned, _pruned_and_coded, _refitted, Half.of])
def test_other_ways_to_make_weights_smaller_raise_no_suspicion(make):
    assert not stored(*both(make=make)).findings


def test_halves_and_plain_numbers_that_were_changed_are_suspect():
    for make, name in ((Half.of, "v.q"), (_pruned, "v")):
        original, small = both(make=make)
        value = next(v for v in small.graph.initializers if v.name == name)
        numbers = small.constant(value).copy()
        place = np.unravel_index(np.abs(numbers).argmax(), numbers.shape)
        numbers[place] *= 1.01
        small.set_constant(value, numbers)
        (finding,) = stored(original, small).findings
        assert finding.severity == Severity.SUSPECT
        assert str(list(map(int, place))) in finding.text


def test_plain_numbers_in_other_places_are_suspect():
    """Smooth ones, so that they look much like those that they stand in for."""
    slope = np.linspace(-1, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
    original = view("(float[N,64] x) => (float y) { y = MatMul(x, w) }", w=slope)
    small = clone(original)
    (value,) = small.graph.initializers
    small.set_constant(value, np.roll(slope.reshape(-1), 1).reshape(64, 48))
    (finding,) = stored(original, small).findings
    assert "the same numbers in another order" in finding.text


def test_weights_without_names_are_paired_by_their_place():
    original, small = both()
    for graph in (original, small):
        for node in graph.nodes():
            node.proto.name = ""
            for value in node.outputs:
                if not value.exits:
                    graph.rename(value, graph.fresh("other"))
    found, rest = pairs(effective(original), effective(small))
    assert not rest
    assert [pair.original.slot for pair in found] == [1, 1]
    for pair in found:
        np.testing.assert_allclose(pair.original.numbers(), pair.compressed.numbers(), atol=0.05)


def test_a_weight_that_became_several_has_no_partner():
    original = view(TEXT, w=array(64, 48), v=array(48, 64))
    small = view(
        "(float[N,64] x) => (float y) "
        "{ a = MatMul(x, l)  h = MatMul(a, k)  r = Relu(h)  y = MatMul(r, v) }",
        l=array(64, 4),
        k=array(4, 48),
        v=original.constant(next(v for v in original.graph.initializers if v.name == "v")),
    )
    found = stored(original, small)
    assert len(found.weights) == 1
    assert len(found.unmatched) >= 1
