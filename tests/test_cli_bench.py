"""bench: models compared with each other, kernels with the machine."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from onnx_compress import compare
from onnx_compress.ir.graph import from_proto, save

from graphs import WIDE, parsed, product, weight
from printed_commands import (
    TEXTS,
    fails,
    figures,
    folder_with_a_model,  # noqa: F401
    shown,
    write,
)

QUICK = ["--seconds", "0.01"]


def relu(name: str, kind: str = "float") -> ModelProto:
    return parsed(f'({kind}[N,8] "{name}") => ({kind}[N,8] y) {{ y = Relu("{name}") }}')


def test_a_model_is_as_good_as_itself(capsys):
    printed = shown(capsys, "bench", "in.onnx", "in.onnx", *QUICK, "--threads", "2")
    for word in ("size", "1.00x smaller", "speed", "load", "error    0.0000", "2 threads"):
        assert word in printed
    found = figures(capsys, "bench", "in.onnx", "in.onnx", *QUICK)
    assert found["bytes"] == [Path("in.onnx").stat().st_size] * 2
    assert (found["error"], found["drawn"], found["threads"]) == (0.0, True, 1)
    for footprint in found["footprints"]:
        assert footprint["load_seconds"] > 0


@pytest.mark.parametrize("other", [relu("z"), relu("x", "double"), product()])
def test_models_with_other_inputs_are_not_compared(other, capsys):
    write(relu("x"), "first.onnx")
    fails(capsys, 5, "bench", "first.onnx", write(other, "other.onnx"), *QUICK)


def test_outputs_of_other_names_are_not_compared(capsys):
    write(relu("x"), "first.onnx")
    write(parsed("(float[N,8] x) => (float[N,8] z) { z = Relu(x) }"), "other.onnx")
    found = compare("first.onnx", "other.onnx", seconds=0.01)
    assert found.quality is found.error is None
    assert "not compared" in shown(capsys, "bench", "first.onnx", "other.onnx", *QUICK)


@pytest.mark.parametrize("body", ["Log", "Transpose"])
def test_an_error_beyond_all_numbers_is_no_number_either(body, capsys):
    write(relu("x"), "first.onnx")
    write(parsed(f"(float[N,8] x) => (float y) {{ y = {body}(x) }}"), "other.onnx")
    figures(capsys, "bench", "first.onnx", "other.onnx", *QUICK)
    assert "10000000000" not in shown(capsys, "bench", "first.onnx", "other.onnx", *QUICK)


def test_kernels_are_measured_against_others_and_the_machine(monkeypatch, capsys):
    monkeypatch.setattr("onnx_compress.kernel_speed.SIZES", ((256, 64),))
    few = ["--threads", "1", "--rows", "2", "--seconds", "0.001"]
    found = json.loads(shown(capsys, "bench", "kernels", "--json", *few))
    assert found["limits"][0]["copy"] > 0
    seen = {row["kernel"].split()[0].strip(",") for row in found["rows"]}
    assert {"int8", "int4", "int2", "ternary", "XNOR", "CSR", "BSR", "2:4", "dequantize"} <= seen
    for row in found["rows"]:
        assert all(ratio > 0 for ratio in row["ratios"].values())
        assert len(row["milliseconds"]) > 1
    text = shown(capsys, "bench", "kernels", *few)
    assert "sgemm" in text
    assert "256x64" in text
    assert "--seconds" in fails(capsys, 2, "bench", "kernels", "--seconds", "0")


def test_external_data_count_in_the_comparison(place, capsys):
    save(from_proto(product()), place / "m.onnx", external=True)
    found = figures(capsys, "bench", "m.onnx", "in.onnx", *QUICK)
    assert found["bytes"][0] > 2 * 4 * WIDE * WIDE
    assert found["error"] == 0


def test_texts_need_data(place, capsys):
    model = write(parsed(TEXTS, w=weight()))
    assert "--data" in fails(capsys, 5, "bench", model, model, *QUICK)
    np.savez("data.npz", s=np.array(["a", "bcd"]), x=np.ones((2, 64), "float32"))
    assert "given" in shown(capsys, "bench", model, model, *QUICK, "--data", "data.npz")


def test_inputs_may_have_any_name(capsys):
    odd = ["file", "allow_pickle", "arr_0", "a/b", "../x", "ä b", "self", " "]
    ports = ", ".join(f'float[N] "{name}"' for name in odd)
    read = ", ".join(f'"{name}"' for name in odd)
    model = write(parsed(f"({ports}) => (float[N] y) {{ y = Sum({read}) }}"))
    assert "error    0.0000" in shown(capsys, "bench", model, model, *QUICK)
