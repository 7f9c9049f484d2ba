"""Planted faults are found, with the right name; sound models raise no alarm: a bounded part."""

import random
from pathlib import Path

import pytest

from onnx_compress.bench.faults import CLASSES, alarms, cases, drawn_cases, planted
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
        if len(outcomes) == 12:
            break
    assert len(outcomes) == 12
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
    found = list(drawn_cases(8, tmp_path))
    assert len(found) == 8
    assert alarms(found, 8) == []


def test_a_fault_that_is_not_found_is_told_of(sound, monkeypatch):
    """The test of faults can fail."""
    monkeypatch.setattr("onnx_compress.passes.verify.stored.digests.changed", lambda model: [])
    rng = random.Random(11)
    outcomes = [CLASSES["stored"](case, rng) for case in sound for _ in range(3)]
    told = [one for one in outcomes if one is not None and "no digests" not in one.kind]
    assert told
    assert not any(one.found for one in told)


def test_a_model_is_read_anew_for_each_fault(sound):
    case = sound[0]
    before = case.compressed.read_bytes(), case.original.read_bytes()
    CLASSES["stored"](case, random.Random(2))
    CLASSES["emitted"](case, random.Random(2))
    assert (case.compressed.read_bytes(), case.original.read_bytes()) == before
    model = files.load(case.original)
    assert all(emit(coded(weight), weight) == () for weight in find_weights(model))
