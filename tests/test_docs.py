"""The documentation is up to date, and its examples work."""

import json
import re
import sys
import types
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import onnx_compress
from onnx_compress.bench.pages import END, START, filled, pages
from onnx_compress.cli import main
from onnx_compress.ir.errors import QualityError

from conftest import ROOT
from models_by_text import doubler

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", sorted(pages()))
def test_generated_parts_are_up_to_date(name):
    page = (DOCS / name).read_text("utf-8")
    assert page.count(START) == page.count(END) == 1
    hint = "run: python -m onnx_compress.bench.pages docs"
    assert filled(page, pages()[name]) == page, hint


@pytest.mark.parametrize("page", ["README.md", *sorted(p.name for p in DOCS.rglob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page if page == "README.md" else next(DOCS.rglob(page))
    for target in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.fixture(scope="module")
def schema() -> dict:
    text = resources.files("onnx_compress").joinpath("report.schema.json").read_text("utf-8")
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["--passes", "quant(bits=8)", "--layers"],
        ["--passes", "prune,quant", "--dry-run"],
        ["--passes", "fold"],
        ["--passes", "prune(sparsity=0.99)", "--no-verify"],
        ["--passes", "prune(sparsity=0.99)", "--max-error", "1e-9"],
    ],
)
def test_reports_fit_their_schema(arguments, schema, digits, few_digits, tmp_path):
    report = tmp_path / "r.json"
    data = ["--calib", str(few_digits)] if "quant" in arguments[1] else []
    out = str(tmp_path / "out.onnx")
    main([str(digits), out, *arguments, *data, "--quiet", "--report", str(report)])
    jsonschema.validate(json.loads(report.read_text("utf-8")), schema)


def test_the_report_of_a_refusal_fits_too(schema, digits):
    with pytest.raises(QualityError) as caught:
        onnx_compress.compress(digits, "prune(sparsity=0.9)", max_error=1e-9, strict=True)
    report = caught.value.report.as_dict()
    jsonschema.validate(report, schema)
    assert report["verdict"] == "refused"
    assert "above" in report["refused"]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def test_the_pass_of_ones_own_works(monkeypatch):
    (code,) = [block for block in blocks("embedding.md") if "class Clip" in block]
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # where types of options are looked up
    exec(compile(code, "embedding.md", "exec", dont_inherit=True), module.__dict__)
    result = onnx_compress.compress(doubler(), [module.Clip(most=0.5)], max_error=10.0)
    assert result.report.stages[-1].name == "clip(most=0.5)"


def test_the_example_for_sound_gives_samples(tmp_path, monkeypatch):
    scipy = pytest.importorskip("scipy.io.wavfile")
    monkeypatch.chdir(tmp_path)
    scipy.write("speech.wav", 16000, np.zeros(5000, np.int16))
    (code,) = [block for block in blocks("data.md") if "wavfile" in block]
    exec(compile(code, "data.md", "exec"), {})
    assert np.load(Path("data.npz"))["input"].shape == (9, 512)


def test_the_example_of_testing_a_pass_works(monkeypatch):
    (code,) = [block for block in blocks("testing.md") if "class RoundOff" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    fewer = code.replace("@examples(200)", "@examples(20)")
    exec(compile(fewer, "testing.md", "exec", dont_inherit=True), module.__dict__)
    module.test_round_off()
