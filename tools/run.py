"""One run: from a model to a checked, smaller model.

load -> reference -> passes, each verified -> write aside -> load back, run, compare -> rename
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx_compress import calibration as data
from onnx_compress import remarks
from onnx_compress.finish import Checked, Finish, Refused
from onnx_compress.ir.analysis import Shapes, cost
from onnx_compress.ir.errors import OptionError, OutputError, PassError, QualityError
from onnx_compress.ir.graph import Model, clone, digests, files, kinds
from onnx_compress.ir.runtime import Feed, Runner, open_session, versions
from onnx_compress.passes import Context, Event, Outcome, Pipeline, Target
from onnx_compress.passes.estimate import estimated_speed
from onnx_compress.passes.samples import draw
from onnx_compress.passes.verify import Budget, Metric, Reference, Unverified, measured, top1
from onnx_compress.result import Layer, Result, Score, Summary
from onnx_compress.sensitivity import sensitivity

DEFAULT_MAX_ERROR = 0.15
_DRAWN = 4  # inputs, where the user gives none
_JUDGED = 16  # inputs that every pass is judged on


@dataclass(frozen=True)
class Run:
    """What was asked for; see `compress`."""

    given: Any
    pipeline: Pipeline
    target: Target
    calibration: data.Source | None = None
    out: Path | None = None
    max_error: float | None = None
    max_drop: float | None = None
    metric: Callable[[Any], float] | None = None
    strict: bool = False
    verify: bool = True
    exclude: tuple[str, ...] = ()
    layers: bool = False
    seed: int = 0
    threads: int = 1
    keep_going: bool = False
    measure: bool = True
    cache: Path | None = None
    emit: Callable[[Event], None] = lambda _: None

    def result(self) -> Result:
        """Do it. Raises the errors of `onnx_compress.ir.errors`."""
        start = time.perf_counter()
        self._refuse_contradictions()
        work = _Work(self)
        work.refuse_blind()
        outcome = work.passed()
        final, changed = work.kept(outcome)
        summary = work.summary(outcome, final, changed)
        if self.layers:
            summary = replace(summary, layers=self._layers(work, outcome))
        self.emit(Event("stage", "result"))
        try:
            checked = work.finish(final, summary.unchanged)
        except Refused as error:
            took = time.perf_counter() - start
            summary = _complete(summary, error.checked, work, took)
            error.report = replace(summary, refused=str(error), bytes_after=summary.bytes_before)
            raise
        seconds = time.perf_counter() - start
        return Result(
            kinds.like(self.given, final, self.out), _complete(summary, checked, work, seconds)
        )

    def _refuse_contradictions(self) -> None:
        """Raise OptionError for what cannot be done without checks."""
        if self.verify:
            return
        for given, name in (
            (self.max_error, "max_error"),
            (self.max_drop, "max_drop"),
            (self.layers or None, "layers"),
        ):
            if given is not None:
                hint = "leave out one of the two"
                raise OptionError(f"{name} cannot be checked without verification", hint)
        for item in self.pipeline.passes:
            if not (item.exact or item.obeyed):
                hint = "give it numbers, such as quant(bits=8)"
                raise OptionError("without checks it cannot choose", hint, str(item))

    def planned(self) -> Summary:
        """Change a copy, judge nothing, write nothing."""
        start = time.perf_counter()
        work = _Work(replace(self, verify=False))
        outcome = work.passed()
        final, changed = work.kept(outcome)
        summary = work.summary(outcome, final, changed)
        warnings = (*summary.warnings[1:], *remarks.plan(self.pipeline))
        seconds = time.perf_counter() - start
        return replace(summary, planned=True, seconds=seconds, warnings=warnings)

    @property
    def error_allowed(self) -> float:
        """Where a metric decides, the error does so only if it was given, too."""
        if self.max_error is not None:
            return self.max_error
        return DEFAULT_MAX_ERROR if self.max_drop is None else float("inf")

    def _layers(self, work: "_Work", outcome: Outcome) -> tuple[Layer, ...]:
        self.emit(Event("stage", "layers"))
        return sensitivity(work.original, outcome, work.context, work.reference)


class _Work:
    """A run once its model and data are there."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.original, self.source = kinds.read(run.given)
        self.bytes_before = files.stored_bytes(self.original, self.source)
        self._spare()
        run.emit(Event("stage", "original"))
        session = self.session = open_session(self.original, run.threads)
        self.fit, self.judge, self.drawn = self._samples(session)
        feeds, numbers = self._judging()
        self.reference: Reference
        if run.verify:
            self.reference = Reference(
                session, feeds, self.drawn, self._metric(), self._progress, numbers
            )
        else:
            self.reference = Unverified(session, feeds, self.drawn)
        self.context = Context(
            run.target,
            feeds[0],
            self.fit.feeds,
            run.seed,
            run.emit,
            run.exclude,
            cache=run.cache,
        )

    def passed(self) -> Outcome:
        """The passes, one by one."""
        run = self.run
        budget = Budget(run.error_allowed, run.max_drop)
        try:
            return run.pipeline.run_checked(
                self.original, self.context, self.reference, budget, run.keep_going
            )
        except PassError:
            if self.fit.feeds:  # it names the sample where it is the data that are to blame
                Reference(self.session, self.fit.feeds, numbers=self.fit.numbers)
            raise

    def kept(self, outcome: Outcome) -> tuple[Model, tuple[bool, bool]]:
        """The model to give out; whether passes changed it, and whether it is not larger."""
        changed = any(stage.report.modified and not stage.failure for stage in outcome.stages)
        smaller = files.file_size(outcome.model) <= self.bytes_before
        if not (changed and smaller):
            return clone(self.original), (changed, smaller)
        _stamp(outcome.model, self.bytes_before)
        return outcome.model, (changed, smaller)

    def summary(self, outcome: Outcome, final: Model, changed: tuple[bool, bool]) -> Summary:
        """All that is known before the last look."""
        run, feed = self.run, self.context.sample
        old, new = ((model, Shapes(model, feed)) for model in (self.original, final))
        return Summary(
            passes=str(run.pipeline),
            target=run.target.name,
            stages=outcome.stages,
            bytes_before=self.bytes_before,
            bytes_after=files.file_size(final),
            cost_before=cost(self.original, shapes=old[1]),
            cost_after=cost(final, shapes=new[1]),
            estimated_speed=estimated_speed(old, new, run.target),
            drawn=self.drawn,
            fitted=len(self.fit.feeds),
            judged=len(self.reference.feeds) if run.verify else 0,
            max_error=None if run.error_allowed == float("inf") else run.error_allowed,
            max_drop=run.max_drop,
            exclude=run.exclude,
            seed=run.seed,
            unchanged=not all(changed),
            warnings=(
                *remarks.about_the_input(self.original, self.reference),
                *remarks.about_the_names(self.context),
                *remarks.about_the_passes(outcome),
                *remarks.about_the_inputs(self.original, final),
                *remarks.kept(*changed),
            ),
            versions=versions(),
        )

    def finish(self, final: Model, unchanged: bool) -> Checked:
        """Write it, and look at it once more."""
        run = self.run
        finish = Finish(
            self.original,
            self.reference,
            run.threads,
            run.error_allowed if run.strict else None,
            run.max_drop if run.strict else None,
            run.measure and run.verify,
        )
        if run.out is None:
            return finish.kept(final)
        if unchanged and self.source:
            return finish.copied(self.source, run.out)
        return finish.written(final, run.out)

    def refuse_blind(self) -> None:
        """Raise QualityError where nothing could tell what a pass does to the model."""
        run, reference = self.run, self.reference
        lossy = [item for item in run.pipeline.passes if not item.exact]
        if not run.verify:
            return
        if reference.judges or not lossy:
            return
        name, reason = next(iter(reference.unjudged.items()), ("none", "there"))
        raise QualityError(
            f"its quality cannot be judged: the output {name} {reason}",
            "give real inputs with --calib, or clean up only: --passes fold",
        )

    def _samples(self, session: Runner) -> tuple[data.Samples, data.Samples, bool]:
        """Samples to fit on, samples to judge on, and whether they are drawn."""
        source = self.run.calibration
        if source is None:
            drawn = draw(self.original, session, _DRAWN, self.run.seed)
            return data.Samples(()), data.Samples(drawn), True
        return *data.read(source, session.inputs).halves(), False

    def _judging(self) -> tuple[Sequence[Feed], Sequence[int]]:
        """Samples that every pass is judged on, from all over the data, and their numbers."""
        chosen = data.some(len(self.judge.feeds), _JUDGED)
        numbers = [self.judge.numbers[at] for at in chosen] if self.judge.numbers else []
        return [self.judge.feeds[at] for at in chosen], numbers

    def _metric(self) -> Metric | None:
        if self.run.metric is not None:
            return measured(self.run.metric)
        if self.judge.labels is not None:
            return top1(self.judge.feeds, self.judge.labels)
        if self.run.max_drop is not None:
            hint = "give __labels__ with --calib, or a metric from Python"
            raise OptionError("--max-drop needs a metric", hint)
        return None

    def _progress(self, done: int, total: int) -> None:
        self.run.emit(Event("progress", "samples", done, total))

    def _spare(self) -> None:
        """Raise OutputError where the result would take the place of the input's data."""
        out = self.run.out
        if out is None or not out.exists():
            return
        if any(out.samefile(path) for path in self.original.storage.data_files()):
            hint = "the input would be lost; choose another name"
            raise OutputError("it holds the weights of the input", hint, str(out))


def _complete(summary: Summary, checked: Checked, work: _Work, seconds: float) -> Summary:
    error = checked.error if checked.quality.outputs else None
    score, after = work.reference.score, checked.quality.score
    metric = None
    if work.reference.metric is not None and score is not None and after is not None:
        metric = Score(work.reference.metric.name, score, after, work.reference.metric.samples)
    return replace(
        summary,
        bytes_after=checked.nbytes,
        quality=checked.quality,
        error=error,
        timing=checked.timing,
        metric=metric,
        seconds=seconds,
        warnings=(*summary.warnings, *remarks.about_the_result(summary, error, metric)),
    )


def _stamp(model: Model, room: int) -> None:
    """Put digests into the metadata, unless only they would make the file larger than it was."""
    digests.stamp(model)
    if files.file_size(model) > room:
        model.set_metadata(digests.KEY, None)
