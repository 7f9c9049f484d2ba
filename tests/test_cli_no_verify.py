"""--no-verify: the same result without its checks."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from onnx_compress import compress
from onnx_compress.cli import main
from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.weights.forms import Dense
from onnx_compress.passes import Entry, Pass, Phase, Report

from graphs import product
from reported_commands import (
    EIGHT,
    folder_with_a_model,  # noqa: F401
    refused,
    reported,
    rows,
)


@pytest.mark.parametrize("passes", [[], ["--passes", "quant"], ["--passes", "fold,prune"]])
def test_without_checks_passes_need_numbers(passes, capsys):
    refused(["in.onnx", "out.onnx", "--no-verify", *passes], capsys)


@pytest.mark.parametrize("passes", ["fold", "prune(sparsity=0.5),quant(bits=8)"])
def test_without_checks_the_result_is_the_same_one(passes, place):
    assert main(["in.onnx", "checked.onnx", "--passes", passes, "--quiet"]) == 0
    assert main(["in.onnx", "out.onnx", "--passes", passes, "--quiet", "--no-verify"]) == 0
    assert (place / "out.onnx").read_bytes() == (place / "checked.onnx").read_bytes()


def test_the_report_of_a_run_without_checks_has_nulls():
    found = reported("in.onnx", "out.onnx", "--no-verify", *EIGHT)
    assert found["verdict"] == "compressed"
    quality = found["quality"]
    assert quality["error"] is quality["sqnr_db"] is found["speed"]["measured"] is None
    assert quality["outputs"] == []
    assert found["metric"] is None
    assert quality["samples"]["judged"] == 0
    assert any("not verified" in warning for warning in found["warnings"])


def test_layers_of_a_run_without_checks_are_not_told_to_be_perfect(place):
    code = main(["in.onnx", "out.onnx", "--no-verify", *EIGHT, "--layers", "--report", "r.json"])
    if code != 2:
        layers = json.loads((place / "r.json").read_text())["layers"]
        assert [layer["error"] for layer in layers if layer["error"] is not None] == []


@pytest.mark.parametrize("limit", ["--max-error", "--max-drop"])
def test_limits_that_nothing_would_check_are_refused(limit, capsys):
    refused(["in.onnx", "out.onnx", "--no-verify", *EIGHT, limit, "1e-9"], capsys)


@dataclass(frozen=True)
class Nan(Pass):
    """Breaks all weights."""

    name: ClassVar[str] = "nan"

    @property
    def phase(self) -> Phase:
        return Phase.MASK

    def run(self, model, context) -> Report:
        for found in context.weights(model):
            Dense(np.full(found.shape, np.nan, "float32")).emit(found)
        return Report((Entry("all", "set to NaN"),))


def test_without_checks_nan_is_not_seen():
    assert not compress(product(), Nan(), verify=False).report.unchanged


@pytest.mark.parametrize("data", [None, {"x": rows()}], ids=["drawn", "real"])
def test_with_checks_a_result_of_nan_is_refused(data):
    with pytest.raises(VerificationError, match="NaN"):
        compress(product(), Nan(), data)
