"""compress: the promises that hold of every run."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import pytest

from onnx_compress import compress
from onnx_compress.ir.errors import CompressError, QualityError
from onnx_compress.ir.graph import Model
from onnx_compress.passes import Context, Entry, Pass, Phase, Pipeline, Report

from models_by_text import (
    SAMPLES,
    left,
    nothing_to_do,
    quick,
    run,
    same_numbers_in_any_order,  # noqa: F401
    source_file,  # noqa: F401
)


@pytest.mark.parametrize("passes", ["prune,quant", "quant(bits=8)", "fold"])
def test_equal_runs_give_equal_bytes_at_any_number_of_threads(source, tmp_path, passes):
    contents = set()
    for number, threads in enumerate([1, 1, 2]):
        out = tmp_path / f"out{number}.onnx"
        quick(source, passes, SAMPLES, out, threads=threads)
        contents.add(out.read_bytes())
    assert len(contents) == 1


def test_the_interface_stays(source, tmp_path):
    out = tmp_path / "out.onnx"
    quick(source, "quant(bits=8)", SAMPLES, out)
    before, after = onnx.load(source), onnx.load(out)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)


@pytest.mark.parametrize("passes", ["prune,quant", "quant(bits=8)", "quant(bits=16)"])
def test_a_second_run_gives_a_copy_of_the_first(source, tmp_path, passes):
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    quick(source, passes, SAMPLES, once)
    report = quick(once, passes, SAMPLES, twice).report
    assert report.unchanged
    assert twice.read_bytes() == once.read_bytes()


@pytest.mark.parametrize("passes", ["prune,quant", "fold", "quant(bits=8)", "prune(sparsity=0.5)"])
def test_what_cannot_be_compressed_is_copied_byte_for_byte(tmp_path, passes):
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    unknown_field = b"\xf2\x7d\x03abc"
    path.write_bytes(nothing_to_do().SerializeToString() + unknown_field)
    report = quick(path, passes, out=out).report
    assert out.read_bytes() == path.read_bytes()
    assert report.unchanged
    assert report.ratio == 1
    assert report.error == 0


def test_an_unchanged_proto_comes_back_equal(tmp_path):
    proto = nothing_to_do()
    result = quick(proto, out=tmp_path / "out.onnx")
    assert result.report.unchanged
    assert result.model == proto
    assert onnx.load(tmp_path / "out.onnx") == proto


@dataclass(frozen=True)
class Bloat(Pass):
    name: ClassVar[str] = "bloat"

    @property
    def phase(self) -> Phase:
        return Phase.ENCODE

    def run(self, model: Model, context: Context) -> Report:
        model.shell.doc_string = "." * 10_000
        return Report((Entry("model", "longer"),))


def test_the_result_is_never_larger(source, tmp_path):
    out = tmp_path / "out.onnx"
    report = quick(source, Pipeline((Bloat(),)), out=out).report
    assert out.read_bytes() == source.read_bytes()
    assert report.unchanged
    assert any("larger" in warning for warning in report.warnings)


def test_figures_of_the_report_are_those_of_the_files(source, tmp_path):
    out = tmp_path / "out.onnx"
    report = quick(source, "quant(bits=8)", {**SAMPLES, "__fit__": [1, 0] * 4}, out).report
    assert report.bytes_before == source.stat().st_size
    assert report.bytes_after == out.stat().st_size
    assert report.ratio == pytest.approx(source.stat().st_size / out.stat().st_size)
    judged = [{"x": SAMPLES["x"][at : at + 1]} for at in range(1, 8, 2)]
    r, y = (np.concatenate([run(path, feed)[0] for feed in judged]) for path in (source, out))
    centred = np.linalg.norm(r - r.mean(axis=0))
    assert report.error == pytest.approx(np.linalg.norm(y - r) / centred, rel=0.05)
    assert report.quality.sqnr_db == pytest.approx(
        20 * np.log10(np.linalg.norm(r) / np.linalg.norm(y - r)), abs=0.5
    )
    assert (report.fitted, report.judged) == (4, 4)
    assert not report.drawn


def test_the_error_stays_below_the_one_allowed(source):
    for allowed in (0.1, 0.02, 0.001, 1e-6):
        report = quick(source, "prune,quant", SAMPLES, max_error=allowed).report
        assert report.error <= allowed


def test_a_result_that_is_too_bad_is_not_written(source, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(QualityError) as caught:
        quick(source, "quant(bits=8)", SAMPLES, out, 1e-6, strict=True)
    assert caught.value.exit_code == 6
    assert left(tmp_path) == {"in.onnx"}


def test_without_strict_it_is_written_with_a_warning(source, tmp_path):
    out = tmp_path / "out.onnx"
    report = quick(source, "quant(bits=8)", SAMPLES, out, 1e-6).report
    assert out.exists()
    assert any("above" in warning for warning in report.warnings)


@pytest.mark.parametrize("number", [float("nan"), -0.1])
def test_an_error_that_is_no_number_is_refused(source, tmp_path, number):
    with pytest.raises(CompressError):
        quick(source, "quant(bits=8)", SAMPLES, tmp_path / "out.onnx", number, strict=True)
    assert left(tmp_path) == {"in.onnx"}


def test_drawn_inputs_are_warned_about(source):
    report = quick(source, "quant(bits=8)").report
    assert report.drawn
    assert any("--calib" in warning for warning in report.warnings)


def test_a_run_is_timed_on_request(source, tmp_path):
    report = compress(source, "quant(bits=8)", SAMPLES, tmp_path / "out.onnx").report
    assert report.timing is not None
    assert report.speed > 0
    assert report.timing.spread[1][0] <= report.speed <= report.timing.spread[1][1]
