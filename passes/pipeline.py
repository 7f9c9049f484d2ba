"""Pipeline: passes in order, each verified on a copy before it counts.

    model --clone--> trial --pass--> trial --check--> model        or the trial is thrown away

A pass offers settings, the strongest first; of those within its share of the error that is left the
smallest result is taken, of numbers that are given else the one of least error. Errors add as
squares; the last pass that chooses takes the rest.
"""

import time
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

from onnx_compress.ir.errors import (
    CalibrationError,
    CancelledError,
    CompressError,
    OrderError,
    OutputError,
    PassError,
    VerificationError,
)
from onnx_compress.ir.graph import Model, clone
from onnx_compress.ir.graph.files import file_size
from onnx_compress.ir.runtime import open_session
from onnx_compress.ir.runtime.limits import check_cancelled
from onnx_compress.passes.base import Context, Entry, Event, Pass, Phase, Report, Trial
from onnx_compress.passes.grammar import parse
from onnx_compress.passes.verify import Budget, Quality, Reference, check, exact_db
from onnx_compress.passes.verify.budget import FREE

_WORTH = 0.005  # share of the bytes that a pass without numbers must save to be taken
_NEARER = 0.8  # times the error, for which a weaker setting of numbers that are given is worth it
_NAN = "it gives NaN or infinity where the original gives numbers"
_MAGNIFIED = 2.0  # times what the runtime's optimizer changes, for a pass that is exact


@dataclass(frozen=True)
class Stage:
    """What became of one pass.

    `quality` is that of the model after it, against the original; `error` the number of it that
    decides; `setting` the pass with the numbers that were taken.
    """

    name: str
    report: Report
    bytes_before: int
    bytes_after: int
    quality: Quality | None
    error: float | None
    seconds: float
    failure: str = ""
    setting: Pass | None = None


@dataclass(frozen=True)
class Outcome:
    """The model after all passes, and what became of each."""

    model: Model
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Pipeline(Pass):
    """Passes in order; a pass itself, which runs them without checks."""

    name: ClassVar[str] = "pipeline"
    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        """Check the order. Raises OrderError, which names both passes."""
        for before, after in zip(self.passes, self.passes[1:], strict=False):
            if before.phase > after.phase:
                raise OrderError(
                    f"{before} cannot come before {after}",
                    f"write {after},{before}: the later phase would be undone",
                )

    @staticmethod
    def parse(text: str, fold: bool = False) -> "Pipeline":
        """From text; with `fold`, exact clean-up comes first. Raises PipelineError.

        `Pipeline.parse(str(p)) == p`.
        """
        pipeline = Pipeline(tuple(parse(text)))
        return pipeline.cleaned() if fold else pipeline

    def cleaned(self) -> "Pipeline":
        """With exact clean-up first."""
        if self.passes and self.passes[0].phase == Phase.CLEAN:
            return self
        return Pipeline((*parse("fold"), *self.passes))

    @property
    def phase(self) -> Phase:
        """That of its first pass."""
        return self.passes[0].phase if self.passes else Phase.CLEAN

    @property
    def obeyed(self) -> bool:
        """Whether nothing in it is left to choose."""
        return all(item.exact or item.obeyed for item in self.passes)

    def __str__(self) -> str:
        return ",".join(str(item) for item in self.passes)

    def run(self, model: Model, context: Context) -> Report:
        """Run all passes, each as configured, with the first of its settings."""
        context = replace(context, memo=None)  # each of them sees another model
        reports = [item.settings(context)[0].run(model, context) for item in self.passes]
        return Report(
            tuple(entry for report in reports for entry in report.changes),
            tuple(entry for report in reports for entry in report.skipped),
        )

    def run_checked(
        self,
        model: Model,
        context: Context,
        reference: Reference,
        budget: Budget,
        keep_going: bool = False,
    ) -> Outcome:
        """Run the passes one by one on copies, and keep what holds.

        Raises VerificationError where a pass breaks the model, unless `keep_going`.
        """
        runner = _Runner(model, context, reference, budget, keep_going)
        for at, item in enumerate(self.passes):
            context.emit(Event("stage", str(item), at, len(self.passes)))
            left = sum(1 for later in self.passes[at:] if not later.exact and not later.obeyed)
            runner.stage(item, max(left, 1))
        return Outcome(runner.model, tuple(runner.stages))


@dataclass(frozen=True)
class _Taken:
    """A setting within its share of the error, and what became of the model."""

    model: Model
    setting: Pass
    report: Report
    quality: Quality
    error: float
    drop: float


class _Runner:
    def __init__(
        self,
        model: Model,
        context: Context,
        reference: Reference,
        budget: Budget,
        keep_going: bool,
    ) -> None:
        self.model, self.context, self.reference = model, context, reference
        self.budget, self.keep_going = budget, keep_going
        self.original, self.interface = model, model.interface()
        self.stages: list[Stage] = []

    def stage(self, item: Pass, shares: int) -> None:
        """Run one pass; `shares`: how many passes share the error that is left."""
        start = time.perf_counter()
        before = file_size(self.model)
        setting, report, quality, failure = item, Report(), None, ""
        try:
            setting, report, quality = self._choose(item, shares)
            check_cancelled()  # also where the pass caught it
        except (MemoryError, OutputError, CancelledError, CalibrationError):  # not its fault
            raise
        except Exception as error:  # passes may be anybody's
            failed = _named(error, item)
            if not self.keep_going:
                raise failed from error
            failure = failed.message
        after = file_size(self.model)
        seconds = time.perf_counter() - start
        measured = self.reference.error(quality) if quality and quality.outputs else None
        self.stages.append(
            Stage(str(setting), report, before, after, quality, measured, seconds, failure, setting)
        )

    def _exact(self, quality: Quality, error: float) -> str:
        """Whether an exact pass was one; a note where that is hard to say.

        After a lossy pass, what can be asked is that the error there is does not grow. And some
        models magnify rounding: those must not change more than the runtime's optimizer makes them.
        """
        if quality.sqnr_db >= exact_db(self.model) or 0 < error <= self.budget.error * FREE:
            return ""
        noise = self.reference.judge(open_session(self.original, optimize=False)).plain_error
        if quality.plain_error <= _MAGNIFIED * noise:
            return f"rounding alone changes the outputs of this model by {noise:.1%}"
        raise VerificationError(
            f"an exact pass changed the outputs ({quality.sqnr_db:.0f} dB)",
            "this is a bug; run without it and report the model",
        )

    def _choose(self, item: Pass, shares: int) -> tuple[Pass, Report, Quality | None]:
        refused: list[Entry] = []
        trials: list[Trial] = []
        best: _Taken | None = None
        least: _Taken | None = None  # of those that go too far
        context = replace(self.context, memo={})
        allowed = self.budget.added() if item.obeyed else self.budget.allowed(shares)
        for setting in item.search(self.model, context, allowed, trials):
            trial = clone(self.model)
            report = setting.run(trial, context)
            if not report.modified:
                if best is None:
                    return setting, _with(report, refused), None
                break
            trial.unlist()
            if not item.obeyed and not _saves(trial, self.model):
                refused.append(Entry(str(setting), "saves neither bytes nor time here: not taken"))
                continue
            scored = self.budget.max_drop is not None
            quality = check(trial, self.interface, self.reference, scored)
            error, drop = self.reference.error(quality), self.reference.drop(quality)
            if item.exact:
                note = self._exact(quality, error)
                report = replace(report, notes=(*report.notes, note)) if note else report
            reason = self.budget.refuses(error, drop, allowed, shares)
            if error == inf:
                reason = _NAN
            fits = error < inf and (item.exact or not reason)
            trials.append(Trial(setting, error, fits))
            taken = _Taken(trial, setting, report, quality, error, drop)
            if not fits:
                refused.append(Entry(str(setting), f"{reason}: not taken"))
                if error < (inf if least is None else _NEARER * least.error):
                    least = taken
            elif best is None or file_size(trial) < file_size(best.model):
                best = taken
        if best is None and item.obeyed and trials:
            if least is None:
                raise VerificationError(_NAN)
            best = least
            refused = [entry for entry in refused if entry.subject != str(best.setting)]
        if best is not None:
            self.model = best.model
            if not item.exact:
                self.budget.spend(best.error, best.drop)
            return best.setting, _with(best.report, refused), best.quality
        summary = "nothing taken" if refused else "no setting looks worth its error"
        return item, Report(skipped=tuple(refused), summary=summary), None


def _saves(trial: Model, model: Model) -> bool:
    return file_size(trial) < (1 - _WORTH) * file_size(model)


def _with(report: Report, refused: list[Entry]) -> Report:
    return replace(report, skipped=(*refused, *report.skipped))


def _named(error: Exception, item: Pass) -> PassError:
    """Any failure as that of a pass, with its name and a way on."""
    hint = "run with --keep-going to go on without this pass"
    if isinstance(error, PassError):
        return type(error)(str(error), error.hint or hint, str(item))
    if isinstance(error, CompressError):
        return PassError(str(error), error.hint or hint, str(item))
    return PassError(f"it failed: {type(error).__name__}: {error}", hint, str(item))
