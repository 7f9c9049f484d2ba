"""Statistics as people meet them: a cache that is asked for, and what a report says of the data."""

import sys

import numpy as np
import pytest

from onnx_compress.cli import main
from onnx_compress.compressor import plan
from onnx_compress.ir.errors import PassError
from onnx_compress.passes.statistics import collect

from models_by_text import draw, quick, two_layers

MODULE = sys.modules[collect.__module__]
SOURCE = two_layers()
ENOUGH = {"x": draw(512, 96)}
PASSES = "quant(bits=4, activations='float', sequential=false)"


def notes(report, name):
    return [note for stage in report.stages if name in stage.name for note in stage.report.notes]


@pytest.mark.parametrize(
    "passes", [PASSES, "prune(channels=0.25)", "quant(bits=8, sequential=false)"]
)
def test_what_was_found_out_is_found_again(tmp_path, passes):
    cache, data = tmp_path / "cache", {"x": draw(32, 96)}
    plain = quick(SOURCE, passes, data).model
    first = quick(SOURCE, passes, data, cache=cache).model
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert files
    again = quick(SOURCE, passes, data, cache=cache).model
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == files
    assert plain.SerializeToString() == first.SerializeToString() == again.SerializeToString()


def test_nothing_is_collected_a_second_time(tmp_path, monkeypatch):
    arguments = (SOURCE, PASSES, ENOUGH)
    plan(*arguments, cache=tmp_path)
    monkeypatch.setattr(MODULE, "stream", None)
    assert plan(*arguments, cache=tmp_path)
    with pytest.raises(PassError, match="not callable"):
        plan(*arguments)


def test_the_command_has_a_cache_too(tmp_path):
    source, data, cache = (tmp_path / name for name in ("in.onnx", "data.npz", "cache"))
    source.write_bytes(SOURCE.SerializeToString())
    np.savez(data, x=draw(32, 96))
    out = str(tmp_path / "out.onnx")
    given = [str(source), out, "--passes", PASSES, "--calib", str(data), "--cache", str(cache)]
    assert main([*given, "--quiet"]) == 0
    assert list(cache.glob("*.npz"))


@pytest.mark.parametrize("sequential", ["true", "false"])
def test_reports_say_that_there_were_few_rows(sequential):
    passes = f"quant(bits=4, sequential={sequential})"
    few = quick(SOURCE, passes, {"x": draw(32, 96)}).report
    found = [note for note in notes(few, "quant") if "rows of data" in note]
    assert len(found) == 1
    assert "W (and 1 others): 16 rows of data for 96 columns" in found[0]
    enough = quick(SOURCE, passes, ENOUGH).report
    assert not [note for note in notes(enough, "quant") if "rows of data" in note]
