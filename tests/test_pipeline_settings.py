"""Pipelines at work: which of a pass's settings is taken, and how passes share the error."""

import json
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_compress import compress
from onnx_compress.ir.errors import VerificationError
from onnx_compress.ir.graph import Model
from onnx_compress.passes import Context, Pass, Phase, Pipeline, Report, option

from models_by_text import DONE, DropsNode, Scale, doubler, factor, run_passes, scale


@dataclass(frozen=True)
class Shorten(Pass):
    """Without a number: adds an error, and takes bytes out of the documentation."""

    name: ClassVar[str] = "shorten"
    offered: ClassVar[tuple[float, ...]] = (0.4, 0.2, 0.1, 0.05, 0.01)
    noise: float | None = option(None, "the error it adds", low=0, high=1)
    cut: int = option(10, "bytes it takes out")

    @property
    def phase(self) -> Phase:
        return Phase.ENCODE

    @property
    def obeyed(self) -> bool:
        return self.noise is not None

    def settings(self, context: Context) -> tuple[Pass, ...]:
        if self.noise is not None:
            return (self,)
        return tuple(Shorten(noise=noise, cut=self.cut) for noise in self.offered)

    def run(self, model: Model, context: Context) -> Report:
        assert self.noise is not None
        scale(model, 1 + self.noise)
        text = model.shell.doc_string
        model.shell.doc_string = text[self.cut :] if self.cut > 0 else text + "." * -self.cut
        return DONE


@settings(max_examples=20)
@given(st.floats(0.001, 0.5))
def test_the_strongest_setting_within_the_error_is_taken(max_error):
    assume(all(abs(max_error / noise - 1) > 1e-3 for noise in Shorten.offered))  # rounding decides
    outcome = run_passes(Shorten(), max_error=max_error)
    fitting = [noise for noise in Shorten.offered if noise <= max_error * (1 - 1e-4)]
    assert factor(outcome) == pytest.approx(2 * (1 + max(fitting, default=0)), rel=1e-5)
    (stage,) = outcome.stages
    refused = [entry for entry in stage.report.skipped if "not taken" in entry.text]
    larger = [noise for noise in Shorten.offered if noise > max_error * (1 - 1e-4)]
    assert len(refused) == len(larger)
    assert stage.report.modified == bool(fitting)


def test_two_passes_share_the_error_as_squares():
    outcome = run_passes(Shorten(), Shorten(), max_error=0.25)
    first, second = (stage.error for stage in outcome.stages)
    assert first == pytest.approx(0.1, rel=1e-3)  # 0.2 is above 0.25 / sqrt(2)
    assert second == pytest.approx(1.1 * 1.1 - 1, rel=1e-3)  # the last one takes the rest


def test_what_is_left_counts_from_the_error_there_is():
    outcome = run_passes(Scale(factor=1.2), Shorten(), Shorten(), max_error=0.25)
    errors = [stage.error for stage in outcome.stages]
    allowed = sqrt(0.2**2 + (0.25**2 - 0.2**2) / 2)
    assert errors[1] == pytest.approx(1.2 * 1.01 - 1, rel=1e-3)
    assert errors[1] <= allowed < 1.2 * 1.05 - 1


def test_a_pass_with_numbers_takes_no_share():
    outcome = run_passes(Shorten(), Shorten(noise=0.001), max_error=0.11)
    assert outcome.stages[0].error == pytest.approx(0.1, rel=1e-3)


def test_numbers_given_are_obeyed_whatever_the_error():
    outcome = run_passes(Shorten(noise=0.9), max_error=0.01)
    assert factor(outcome) == pytest.approx(3.8)
    assert outcome.stages[0].error == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize("cut", [0, -5])
def test_a_pass_without_numbers_must_save_bytes(cut):
    outcome = run_passes(Shorten(cut=cut))
    assert factor(outcome) == 2
    assert not outcome.stages[0].report.modified
    texts = [entry.text for entry in outcome.stages[0].report.skipped]
    assert any("saves neither" in text for text in texts)


def test_what_was_refused_is_in_the_report_of_the_run():
    result = compress(doubler(), Pipeline((Shorten(),)), max_error=0.15)
    texts = json.dumps(result.report.as_dict(), default=str)
    assert "shorten(noise=0.4" in texts
    assert result.report.error == pytest.approx(0.1, rel=1e-3)


class Breaks(Shorten):
    """Shortens, and breaks the model."""

    def run(self, model: Model, context: Context) -> Report:
        DropsNode().apply(model)
        return super().run(model, context)


@dataclass(frozen=True)
class Explodes(Shorten):
    """Its strongest setting breaks the model; the next one would hold."""

    name: ClassVar[str] = "explodes"

    def settings(self, context: Context) -> tuple[Pass, ...]:
        return (Breaks(noise=0.02), Shorten(noise=0.01))


def test_a_broken_setting_ends_the_run_like_a_broken_pass():
    with pytest.raises(VerificationError):
        run_passes(Explodes())
    outcome = run_passes(Explodes(), keep_going=True)
    assert outcome.stages[0].failure
    assert factor(outcome) == 2
