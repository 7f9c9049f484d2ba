"""Planted faults are found, with the right name; sound models raise no alarm: a bounded part."""

import random
from pathlib import Path

import pytest

from onnx_compress import verify
from onnx_compress.bench.faults import CLASSES, alarms, cases, drawn_cases, planted
from onnx_compress.bench.planted import stored
from onnx_compress.bench.planted.fault import Case, Outcome
from onnx_compress.ir.graph import files, save
from onnx_compress.ir.weights import find_weights
from onnx_compress.passes.verify.emitted import emit

from coded_weights import coded
from graphs import array, view


@pytest.fixture(scope="module")
def sound(digits, tmp_path_factory) -> list[Case]:
    """The shipped model through every pipeline, and a small one with products of bytes."""
    folder = tmp_path_factory.mktemp("faults")
    text = "(float[N,64] x) => (float[N,24] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"
    model = view(text, w=array(64, 48) / 8, v=array(48, 24) / 7)
    save(model, folder / "products.onnx")
    return list(cases([Path(digits), folder / "products.onnx"], folder))


def test_there_are_models_of_every_kind(sound):
    assert {case.original.stem for case in sound} == {"digits", "products"}
    assert {"all dynamic", "all dequantize", "quant(bits=16)"} <= {case.passes for case in sound}


@pytest.mark.parametrize("name", CLASSES)
def test_faults_of_each_class_are_found(name, sound):
    rng = random.Random(11)
    outcomes: list[Outcome] = []
    for at in range(60):
        found = CLASSES[name](sound[at % len(sound)], rng)
        outcomes += [found] if found is not None else []
        if len(outcomes) == 8:
            break
    assert len(outcomes) == 8
    assert len({outcome.kind for outcome in outcomes}) >= 4
    missed = [str(outcome) for outcome in outcomes if not outcome.found]
    assert not missed


def test_classes_are_planted_in_turn(sound):
    tally = planted(sound, 6, 0)
    assert set(tally.planted.values()) == {2}
    assert not tally.missed


def test_sound_models_raise_no_alarm(sound):
    assert alarms(sound, len(sound)) == []


def test_drawn_models_raise_no_alarm(tmp_path):
    found = list(drawn_cases(5, tmp_path))
    assert len(found) == 5
    assert alarms(found, 5) == []


def test_a_fault_that_is_not_found_is_told_of(sound, monkeypatch):
    """The test of faults can fail: here verify is shown the sound model."""
    case = next(case for case in sound if case.original.stem == "products")

    def blind(original, model, **options):
        return verify(original, case.compressed, **options)

    monkeypatch.setattr(stored, "verify", blind)
    outcome = stored.plant(case, random.Random(11))
    assert not outcome.found
    tally = planted([case], 3, 0)
    assert len(tally.missed) == tally.planted["stored"] >= 1
    assert tally.missed[0].startswith("stored, products")


def test_a_model_is_read_anew_for_each_fault(sound):
    case = sound[0]
    before = case.compressed.read_bytes(), case.original.read_bytes()
    CLASSES["stored"](case, random.Random(2))
    CLASSES["emitted"](case, random.Random(2))
    assert (case.compressed.read_bytes(), case.original.read_bytes()) == before
    model = files.load(case.original)
    assert all(emit(coded(weight), weight) == () for weight in find_weights(model))
