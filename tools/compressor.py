"""One run: from a model to a checked, smaller model.

load -> reference -> passes, each verified -> write aside -> load back, run, compare -> rename
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress import calibration as data
from onnx_compress.ir.analysis import cost
from onnx_compress.ir.errors import (
    CalibrationError,
    OptionError,
    QualityError,
    VerificationError,
)
from onnx_compress.ir.graph import Model, clone, files, kinds
from onnx_compress.ir.runtime import Feed, Session, Timing, compare_speed, versions
from onnx_compress.passes import Context, Event, Outcome, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import ignore
from onnx_compress.passes.verify import Reference, draw
from onnx_compress.result import Accuracy, Result, Summary

DEFAULT_PASSES = "prune,quant"
DEFAULT_MAX_ERROR = 0.15
_DRAWN = 4  # inputs, where the user gives none
_JUDGED = 16  # inputs that every pass is judged on


@dataclass(frozen=True)
class _Data:
    """Samples to fit on and to judge on."""

    fit: Sequence[Feed]
    judge: data.Samples
    drawn: bool


def compress(
    model: Any,
    passes: str | Pipeline = DEFAULT_PASSES,
    calibration: data.Source | None = None,
    out: str | Path | None = None,
    max_error: float = DEFAULT_MAX_ERROR,
    *,
    strict: bool = False,
    target: str | None = None,
    fold: bool = True,
    seed: int = 0,
    threads: int | None = None,
    keep_going: bool = False,
    measure: bool = True,
    on_event: Callable[[Event], None] = ignore,
) -> Result:
    """Make a model smaller, and check the result.

    `model`: a path, a ModelProto, an onnx-graphsurgeon Graph, or a Model; it is not changed.
    `passes`: as text, `"prune,quant(bits=8)"`, or a Pipeline. `calibration`: see
    `onnx_compress.calibration`. `out`: where to write the result.
    `max_error`: what passes without numbers keep within; with `strict`, nothing is written and
    QualityError raised where the result exceeds it. `target`: a shipped target or a TOML file;
    by default that of this processor. `fold`: exact clean-up first. `keep_going`: leave out
    passes that fail. `measure`: time the result against the original.

    The result's model is of the kind given (for a path: the path written, or a ModelProto if
    there is no `out`). Raises the errors of `onnx_compress.ir.errors`.
    """
    start = time.perf_counter()
    _check_numbers(max_error, threads, seed)
    if out is not None:
        files.check_place(out)
    original, source = kinds.read(model)
    pipeline = Pipeline.parse(passes, fold) if isinstance(passes, str) else passes
    chosen = targets.load(target) if target else targets.host()
    workers = threads or os.cpu_count() or 1
    on_event(Event("stage", "original"))
    session = Session(original, workers)
    samples = _samples(original, session, calibration, seed)
    feeds = samples.judge.feeds[:_JUDGED]
    reference = Reference(session, feeds, samples.drawn)
    del session  # two models at a time are enough
    context = Context(chosen, feeds[0], samples.fit, seed, on_event)
    outcome = pipeline.run_checked(original, context, reference, max_error, keep_going)
    bytes_before = source.stat().st_size if source else files.file_size(original)
    bytes_before += _external_bytes(original) if source else 0
    changed = any(stage.report.modified and not stage.failure for stage in outcome.stages)
    smaller = files.file_size(outcome.model) <= bytes_before
    final = outcome.model if changed and smaller else clone(original)
    on_event(Event("stage", "result"))
    finish = _Finish(original, final, reference, samples, workers, measure)
    if out is None:
        checked = finish.check(Session(final, workers))
        bytes_after = files.file_size(final) if final is outcome.model else bytes_before
        _enforce(checked.error, max_error, strict)
    else:
        checked, bytes_after = _written(
            finish, Path(out), source if final is not outcome.model else None, max_error, strict
        )
    unstable = sorted(reference.unstable)
    warnings = _warnings(outcome, checked.error, max_error, samples, changed, smaller, unstable)
    before, after = cost(original, feeds[0]), cost(final, feeds[0])
    report = Summary(
        passes=str(pipeline),
        target=chosen.name,
        stages=outcome.stages,
        bytes_before=bytes_before,
        bytes_after=bytes_after,
        cost_before=before,
        cost_after=after,
        quality=checked.quality,
        error=checked.error,
        max_error=max_error,
        drawn=samples.drawn,
        fitted=len(samples.fit),
        judged=len(feeds),
        timing=checked.timing,
        accuracy=checked.accuracy,
        unchanged=final is not outcome.model,
        seconds=time.perf_counter() - start,
        warnings=warnings,
        versions=versions(),
    )
    return Result(kinds.like(model, final, Path(out) if out is not None else None), report)


def _check_numbers(max_error: float, threads: int | None, seed: int) -> None:
    for name, value, fine in (
        ("max-error", max_error, max_error >= 0),  # not a number is not fine
        ("threads", threads, threads is None or threads >= 1),
        ("seed", seed, seed >= 0),
    ):
        if not fine:
            raise OptionError(f"--{name} cannot be {value}", "see onnx-compress --help")


def _external_bytes(model: Model) -> int:
    return sum(path.stat().st_size for path in model.storage.paths()[1:])


def _samples(model: Model, session: Session, source: data.Source | None, seed: int) -> _Data:
    if source is None:
        drawn = draw(model, session, _DRAWN, seed)
        return _Data((), data.Samples(drawn), drawn=True)
    samples = data.read(source, session.inputs)
    if len(samples.feeds) < 2:
        raise CalibrationError("one sample only", "give one to fit and one to judge, at least")
    return _Data(samples.every_second(0).feeds, samples.every_second(1), drawn=False)


@dataclass(frozen=True)
class _Checked:
    quality: Any
    error: float
    timing: Timing | None
    accuracy: Accuracy | None


@dataclass(frozen=True)
class _Finish:
    """The last look: the result as loaded back, against the original."""

    original: Model
    final: Model
    reference: Reference
    samples: _Data
    threads: int
    measure: bool

    def check(self, session: Session) -> _Checked:
        """Run and compare. Raises VerificationError if the result is broken."""
        quality = self.reference.judge(session)
        error = self.reference.error(quality)
        if not np.isfinite(error):
            raise VerificationError("the result gives NaN where the original gives numbers")
        accuracy = self._accuracy(session)
        return _Checked(quality, error, None, accuracy)

    def time(self, source: Model | Path) -> Timing | None:
        """The result against the original, one thread."""
        if not self.measure:
            return None
        sessions = [Session(self.original), Session(source)]
        return compare_speed(sessions, self.reference.feeds)

    def _accuracy(self, session: Session) -> Accuracy | None:
        labels, feeds = self.samples.judge.labels, self.samples.judge.feeds
        if labels is None:
            return None
        original = Session(self.original, self.threads)
        before, after = (_top1(model, feeds, labels) for model in (original, session))
        return Accuracy(before, after, len(labels))


def _top1(session: Session, feeds: Sequence[Feed], labels: Sequence[int]) -> float:
    """Share of samples whose first output is largest at the label."""
    right = 0
    for feed, label in zip(feeds, labels, strict=True):
        output = np.asarray(session.run(feed)[0])
        right += int(output.reshape(-1).argmax()) == label
    return right / max(len(labels), 1)


def _enforce(error: float, max_error: float, strict: bool) -> None:
    if strict and error > max_error:
        hint = "allow a larger --max-error, or ask for less; nothing was written"
        raise QualityError(f"the error is {error:.3g}, above {max_error:.3g}", hint)


def _written(
    finish: _Finish, out: Path, copied: Path | None, max_error: float, strict: bool
) -> tuple[_Checked, int]:
    """Write aside, load back, run, compare; then it appears."""
    if copied is not None:  # unchanged: the input itself
        checked = finish.check(Session(copied, finish.threads))
        _enforce(checked.error, max_error, strict)
        return checked, _copy(finish.original, copied, out)
    with files.Staged(finish.final, out) as staged:
        checked = finish.check(Session(staged.path, finish.threads))
        _enforce(checked.error, max_error, strict)
        timing = finish.time(staged.path)
        staged.commit()
        return _Checked(checked.quality, checked.error, timing, checked.accuracy), staged.nbytes


def _copy(model: Model, source: Path, out: Path) -> int:
    """The input itself; one with external data becomes a single file, where that is possible."""
    if len(model.storage.paths()) > 1:
        with files.Staged(model, out) as staged:
            staged.commit()
            return staged.nbytes
    if not (out.exists() and out.samefile(source)):
        files.copy(source, out)
    return source.stat().st_size


def _warnings(
    outcome: Outcome,
    error: float,
    max_error: float,
    samples: _Data,
    changed: bool,
    smaller: bool,
    unstable: Iterable[str],
) -> tuple[str, ...]:
    found = [
        f"{stage.name} failed and was left out: {stage.failure}"
        for stage in outcome.stages
        if stage.failure
    ]
    if samples.drawn:
        found.append("no data given: judged on drawn inputs; give real ones with --calib")
    found += [f"the output {name} differs between equal runs: not judged" for name in unstable]
    if error > max_error:
        found.append(f"the error {error:.3g} is above {max_error:.3g}: numbers given are obeyed")
    if changed and not smaller:
        found.append("the result was larger than the input, so the input was kept")
    return tuple(found)
