"""Pipelines at work: exactness, the report of every stage, and a pipeline as a pass."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from onnx_compress import compress
from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.graph import Model, from_proto, to_bytes
from onnx_compress.passes import Context, Event, Outcome, Phase, Pipeline, Report
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold

from models_by_text import FEEDS, Change, Scale, doubler, factor, run_passes, scale


@dataclass(frozen=True)
class ExactScale(Scale):
    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True


def test_an_exact_pass_that_is_not_exact_ends_the_run():
    with pytest.raises(VerificationError) as caught:
        run_passes(ExactScale(factor=1.01))
    assert "exact" in str(caught.value)


def test_an_exact_pass_that_rounds_passes():
    assert run_passes(ExactScale(factor=1 + 1e-6)).stages[0].report.modified


def test_an_exact_pass_after_an_inexact_one_is_not_blamed_for_it():
    outcome = run_passes(Scale(factor=1.1), ExactScale(factor=1.0))
    assert factor(outcome) == pytest.approx(2.2)


@dataclass(frozen=True)
class Silent(Change):
    """Changes the model and says it did not."""

    name: ClassVar[str] = "silent"

    def run(self, model: Model, context: Context) -> Report:
        scale(model, 3)
        return Report(summary="nothing")


def test_changes_that_are_not_reported_do_not_count():
    outcome = run_passes(Silent())
    assert factor(outcome) == 2
    assert to_bytes(outcome.model) == to_bytes(from_proto(doubler()))


class Boasts(Change):
    def apply(self, model: Model) -> None:
        pass


def test_a_pass_that_boasts_of_changes_leaves_a_copy_of_the_input(tmp_path):
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(doubler().SerializeToString())
    result = compress(source, Pipeline((Boasts(),)), out=out, fold=False)
    assert out.read_bytes() == source.read_bytes()
    assert result.report.bytes_before == result.report.bytes_after


def test_stages_hold_sizes_and_errors():
    outcome = run_passes(Fold(), Scale(factor=1.1))
    first, second = outcome.stages
    assert (first.name, second.name) == ("fold", "scale(factor=1.1)")
    assert first.error == 0
    assert second.error == pytest.approx(0.1, rel=1e-3)
    assert first.bytes_before == len(doubler().SerializeToString()) > first.bytes_after
    assert second.bytes_before == first.bytes_after
    assert second.bytes_after == len(to_bytes(outcome.model))


def test_every_pass_is_announced():
    events: list[Event] = []
    run_passes(Scale(factor=1.1), Scale(factor=1.0), events=events)
    assert [event.text for event in events if event.kind == "stage"] == [
        "scale(factor=1.1)",
        "scale",
    ]


# ----------------------------------------------------------------------------- as a pass itself


def test_a_pipeline_is_a_pass():
    model = from_proto(doubler())
    inner = Pipeline((Scale(factor=1.5), Scale(factor=2.0)))
    report = inner.run(model, Context(targets.load("avx2"), FEEDS[0]))
    assert len(report.changes) == 2
    assert factor(Outcome(model, ())) == pytest.approx(6)
    assert inner.phase == Phase.ENCODE
    assert factor(run_passes(inner)) == pytest.approx(6)


def test_no_passes_leave_the_model_as_it_is():
    outcome = run_passes()
    assert outcome.stages == ()
    assert to_bytes(outcome.model) == to_bytes(from_proto(doubler()))
