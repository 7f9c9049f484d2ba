"""Pipelines at work: what is kept, what is rolled back, which settings are taken."""

import json
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.parser import parse_model

from onnx_compress import compress
from onnx_compress.ir.errors import (
    CompressError,
    InvalidError,
    PassError,
    PreconditionError,
    VerificationError,
)
from onnx_compress.ir.graph import Model, from_proto, to_bytes
from onnx_compress.ir.runtime import Session
from onnx_compress.passes import (
    Context,
    Entry,
    Event,
    Outcome,
    Pass,
    Phase,
    Pipeline,
    Report,
    option,
)
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.verify import Reference

RNG = np.random.default_rng(19)
SEEDED = RNG.bit_generator.state
FEEDS = [{"x": RNG.standard_normal((2, 4)).astype("float32")} for _ in range(4)]
DONE = Report((Entry("k", "changed"),), summary="done")


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = SEEDED


def build(documentation: int = 1000) -> ModelProto:
    """y = 2 x, with some text that passes may shorten."""
    proto = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "g (float[N,4] x) => (float[N,4] y) { h = Mul (x, k)  y = Identity (h) }"
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([2]), "k"))
    proto.doc_string = "." * documentation
    return proto


def scale(model: Model, factor: float) -> None:
    (value,) = model.graph.initializers
    model.set_constant(value, model.constant(value) * np.float32(factor))


@dataclass(frozen=True)
class Change(Pass):
    """Base of the passes of these tests: one method, any phase."""

    name: ClassVar[str] = "change"

    @property
    def phase(self) -> Phase:
        return Phase.ENCODE

    def run(self, model: Model, context: Context) -> Report:
        self.apply(model)
        return DONE

    def apply(self, model: Model) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Scale(Change):
    name: ClassVar[str] = "scale"
    factor: float = option(1.0, "of the output")

    def apply(self, model: Model) -> None:
        scale(model, self.factor)


@dataclass(frozen=True)
class ExactScale(Scale):
    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True


class RenamesOutput(Change):
    def apply(self, model: Model) -> None:
        model.graph.outputs[0][0].name = "z"


class AddsOutput(Change):
    def apply(self, model: Model) -> None:
        model.graph.outputs.append((model.add_node(model.graph, "Neg", [model.inputs()[0]]), None))


class DropsNode(Change):
    def apply(self, model: Model) -> None:
        del model.graph.nodes[next(iter(model.graph.nodes))]


class UnknownOperator(Change):
    def apply(self, model: Model) -> None:
        out = model.add_node(model.graph, "Nonsense", [model.inputs()[0]])
        model.replace_uses(model.outputs()[0], out)


class WrongShape(Change):
    def apply(self, model: Model) -> None:
        (value,) = model.graph.initializers
        model.set_constant(value, np.ones((7, 5), "float32"))


class WrongType(Change):
    def apply(self, model: Model) -> None:
        (value,) = model.graph.initializers
        value.tensor = numpy_helper.from_array(np.float64([2]))


class MakesNothing(Change):
    def apply(self, model: Model) -> None:
        model.set_opset("", 9999)


class BreaksUseList(Change):
    def apply(self, model: Model) -> None:
        model.inputs()[0].uses.clear()


class MakesCycle(Change):
    def apply(self, model: Model) -> None:
        first, last = model.graph.nodes
        model.set_input(first, 0, last.output)


class ForbiddenEdit(Change):
    def apply(self, model: Model) -> None:
        model.rename(model.outputs()[0], "z")


class Refuses(Change):
    def apply(self, model: Model) -> None:
        raise PreconditionError("needs something else", "give it")


class Crashes(Change):
    def apply(self, model: Model) -> None:
        scale(model, 1 / len(model.functions))


BREAKING = [
    RenamesOutput,
    AddsOutput,
    DropsNode,
    UnknownOperator,
    WrongShape,
    WrongType,
    MakesNothing,
    BreaksUseList,
    MakesCycle,
]
FAILING = [*BREAKING, ForbiddenEdit, Refuses, Crashes]


def run(
    *passes: Pass,
    max_error: float = 0.15,
    keep_going: bool = False,
    proto: ModelProto | None = None,
    events: list[Event] | None = None,
) -> Outcome:
    proto = proto or build()
    before = proto.SerializeToString()
    model = from_proto(proto)
    bytes_before = to_bytes(model)
    context = Context(
        targets.load("avx2"),
        FEEDS[0],
        FEEDS,
        emit=events.append if events is not None else (lambda _: None),
    )
    reference = Reference(Session(model), FEEDS, drawn=True)
    try:
        return Pipeline(passes).run_checked(model, context, reference, max_error, keep_going)
    finally:
        assert proto.SerializeToString() == before
        assert to_bytes(model) == bytes_before


def factor(outcome: Outcome) -> float:
    """What the model multiplies by: 2 at first."""
    return float(Session(outcome.model).run({"x": np.ones((1, 4), "float32")})[0][0, 0])


@pytest.mark.parametrize("kind", BREAKING, ids=lambda kind: kind.__name__)
def test_a_pass_that_breaks_the_model_ends_the_run(kind):
    with pytest.raises(VerificationError) as caught:
        run(kind())
    assert "change" in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("kind", [ForbiddenEdit, Crashes], ids=lambda kind: kind.__name__)
def test_a_pass_that_fails_by_itself_is_named(kind):
    with pytest.raises(PassError) as caught:
        run(kind())
    assert "change" in str(caught.value)


def test_a_pass_that_refuses_is_named_and_keeps_its_hint():
    with pytest.raises(PreconditionError) as caught:
        run(Refuses())
    assert "change" in str(caught.value)
    assert caught.value.hint == "give it"


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_keep_going_leaves_the_failed_pass_out(kind):
    outcome = run(Scale(factor=1.01), kind(), Scale(factor=1.02), keep_going=True)
    assert factor(outcome) == pytest.approx(2 * 1.01 * 1.02)
    assert [bool(stage.failure) for stage in outcome.stages] == [False, True, False]
    failed = outcome.stages[1]
    assert failed.bytes_before == failed.bytes_after
    assert failed.quality is None
    assert not failed.report.modified


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_nothing_is_written_where_a_pass_fails(kind, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(CompressError):
        compress(build(), Pipeline((kind(),)), out=out)
    assert not list(tmp_path.iterdir())


def test_with_keep_going_the_failure_is_a_warning(tmp_path):
    out = tmp_path / "out.onnx"
    result = compress(build(), Pipeline((RenamesOutput(),)), out=out, keep_going=True)
    assert any("change" in warning for warning in result.report.warnings)
    assert result.report.unchanged
    assert out.exists()


# -------------------------------------------------------------------------- exactness, reports


def test_an_exact_pass_that_is_not_exact_ends_the_run():
    with pytest.raises(VerificationError) as caught:
        run(ExactScale(factor=1.01))
    assert "exact" in str(caught.value)


def test_an_exact_pass_that_rounds_passes():
    assert run(ExactScale(factor=1 + 1e-6)).stages[0].report.modified


def test_an_exact_pass_after_an_inexact_one_is_not_blamed_for_it():
    outcome = run(Scale(factor=1.1), ExactScale(factor=1.0))
    assert factor(outcome) == pytest.approx(2.2)


@dataclass(frozen=True)
class Silent(Change):
    """Changes the model and says it did not."""

    name: ClassVar[str] = "silent"

    def run(self, model: Model, context: Context) -> Report:
        scale(model, 3)
        return Report(summary="nothing")


def test_changes_that_are_not_reported_do_not_count():
    outcome = run(Silent())
    assert factor(outcome) == 2
    assert to_bytes(outcome.model) == to_bytes(from_proto(build()))


class Boasts(Change):
    def apply(self, model: Model) -> None:
        pass


def test_a_pass_that_boasts_of_changes_leaves_a_copy_of_the_input(tmp_path):
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(build().SerializeToString())
    result = compress(source, Pipeline((Boasts(),)), out=out)
    assert out.read_bytes() == source.read_bytes()
    assert result.report.bytes_before == result.report.bytes_after


def test_stages_hold_sizes_and_errors():
    outcome = run(Fold(), Scale(factor=1.1))
    first, second = outcome.stages
    assert (first.name, second.name) == ("fold", "scale(factor=1.1)")
    assert first.error == 0
    assert second.error == pytest.approx(0.1, rel=1e-3)
    assert first.bytes_before == len(build().SerializeToString()) > first.bytes_after
    assert second.bytes_before == first.bytes_after
    assert second.bytes_after == len(to_bytes(outcome.model))


def test_every_pass_is_announced():
    events: list[Event] = []
    run(Scale(factor=1.1), Scale(factor=1.0), events=events)
    assert [event.text for event in events if event.kind == "stage"] == [
        "scale(factor=1.1)",
        "scale",
    ]


# ------------------------------------------------------------------------------------ settings


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
    outcome = run(Shorten(), max_error=max_error)
    fitting = [noise for noise in Shorten.offered if noise <= max_error * (1 - 1e-4)]
    assert factor(outcome) == pytest.approx(2 * (1 + max(fitting, default=0)), rel=1e-5)
    (stage,) = outcome.stages
    refused = [entry for entry in stage.report.skipped if "not taken" in entry.text]
    larger = [noise for noise in Shorten.offered if noise > max_error * (1 - 1e-4)]
    assert len(refused) == len(larger)
    assert stage.report.modified == bool(fitting)


def test_two_passes_share_the_error_as_squares():
    outcome = run(Shorten(), Shorten(), max_error=0.25)
    first, second = (stage.error for stage in outcome.stages)
    assert first == pytest.approx(0.1, rel=1e-3)  # 0.2 is above 0.25 / sqrt(2)
    assert second == pytest.approx(1.1 * 1.1 - 1, rel=1e-3)  # the last one takes the rest


def test_what_is_left_counts_from_the_error_there_is():
    outcome = run(Scale(factor=1.2), Shorten(), Shorten(), max_error=0.25)
    errors = [stage.error for stage in outcome.stages]
    allowed = sqrt(0.2**2 + (0.25**2 - 0.2**2) / 2)
    assert errors[1] == pytest.approx(1.2 * 1.01 - 1, rel=1e-3)
    assert errors[1] <= allowed < 1.2 * 1.05 - 1


def test_a_pass_with_numbers_takes_no_share():
    outcome = run(Shorten(), Shorten(noise=0.001), max_error=0.11)
    assert outcome.stages[0].error == pytest.approx(0.1, rel=1e-3)


def test_numbers_given_are_obeyed_whatever_the_error():
    outcome = run(Shorten(noise=0.9), max_error=0.01)
    assert factor(outcome) == pytest.approx(3.8)
    assert outcome.stages[0].error == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize("cut", [0, -5])
def test_a_pass_without_numbers_must_save_bytes(cut):
    outcome = run(Shorten(cut=cut))
    assert factor(outcome) == 2
    assert not outcome.stages[0].report.modified
    texts = [entry.text for entry in outcome.stages[0].report.skipped]
    assert any("saves neither" in text for text in texts)


def test_what_was_refused_is_in_the_report_of_the_run():
    result = compress(build(), Pipeline((Shorten(),)), max_error=0.15)
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
        run(Explodes())
    outcome = run(Explodes(), keep_going=True)
    assert outcome.stages[0].failure
    assert factor(outcome) == 2


# ---------------------------------------------------------------------------- as a pass itself


def test_a_pipeline_is_a_pass():
    model = from_proto(build())
    inner = Pipeline((Scale(factor=1.5), Scale(factor=2.0)))
    report = inner.run(model, Context(targets.load("avx2"), FEEDS[0]))
    assert len(report.changes) == 2
    assert factor(Outcome(model, ())) == pytest.approx(6)
    assert inner.phase == Phase.ENCODE
    assert factor(run(inner)) == pytest.approx(6)


def test_no_passes_leave_the_model_as_it_is():
    outcome = run()
    assert outcome.stages == ()
    assert to_bytes(outcome.model) == to_bytes(from_proto(build()))


def test_a_verb_that_refuses_says_which_rule_it_keeps():
    model = from_proto(build())
    with pytest.raises(InvalidError):
        model.rename(model.outputs()[0], "z")
    with pytest.raises(InvalidError):
        model.set_constant(next(iter(model.graph.initializers)), np.float64([1]))
    assert model.tensor(next(iter(model.graph.initializers))).data_type == TensorProto.FLOAT
