"""One run: from a model to a checked, smaller model.

load -> reference -> passes, each verified -> write aside -> load back, run, compare -> rename
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress import calibration as data
from onnx_compress.finish import Checked, Finish
from onnx_compress.ir.analysis import cost
from onnx_compress.ir.errors import (
    CalibrationError,
    LoadError,
    OptionError,
    OutputError,
    QualityError,
)
from onnx_compress.ir.graph import Model, clone, digests, files, kinds, staged
from onnx_compress.ir.runtime import Feed, Runner, fits, limits, open_session, versions
from onnx_compress.passes import Context, Event, Outcome, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import ignore
from onnx_compress.passes.verify import Reference, draw
from onnx_compress.result import Result, Summary

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
    memory: int | None = None,
    timeout: float | None = None,
    custom_ops: Sequence[str | Path] = (),
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
    passes that fail. `memory`: bytes of weights up to which a model is run whole; larger ones are
    run in pieces. `timeout`: seconds that one run may take. `custom_ops`: libraries of operators
    that the model needs; they are loaded and run, so give only what you trust. `measure`: time
    the result against the original.

    The result's model is of the kind given (for a path: the path written, or a ModelProto if
    there is no `out`). Raises the errors of `onnx_compress.ir.errors`.
    """
    _check_numbers(max_error, threads, seed, memory, timeout)
    if out is not None:
        staged.check_place(out)
    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))  # NaN is looked for where it matters
        stack.enter_context(limits.custom_operators(_libraries(custom_ops)))
        if memory is not None:
            stack.enter_context(limits.memory(memory))
        if timeout is not None:
            stack.enter_context(limits.timeout(timeout))
        run = _Run(
            model,
            Pipeline.parse(passes, fold) if isinstance(passes, str) else passes,
            Path(out) if out is not None else None,
            targets.load(target) if target else targets.host(),
            max_error,
            strict,
            threads or os.cpu_count() or 1,
            seed,
            on_event,
        )
        return run.result(calibration, keep_going, measure)


@dataclass(frozen=True)
class _Run:
    """What was asked for."""

    given: Any
    pipeline: Pipeline
    out: Path | None
    target: targets.Target
    max_error: float
    strict: bool
    threads: int
    seed: int
    emit: Callable[[Event], None]

    def result(self, calibration: data.Source | None, keep_going: bool, measure: bool) -> Result:
        start = time.perf_counter()
        original, source = kinds.read(self.given)
        self._spare(original)
        self.emit(Event("stage", "original"))
        session = open_session(original, self.threads)
        samples = _samples(original, session, calibration, self.seed)
        feeds = samples.judge.feeds[:_JUDGED]
        reference = Reference(session, feeds, samples.drawn)
        del session  # two models at a time are enough
        self._refuse_blind(reference)
        context = Context(self.target, feeds[0], samples.fit, self.seed, self.emit)
        outcome = self.pipeline.run_checked(
            original, context, reference, self.max_error, keep_going
        )
        bytes_before = _bytes(original, source)
        changed = any(stage.report.modified and not stage.failure for stage in outcome.stages)
        smaller = files.file_size(outcome.model) <= bytes_before
        if changed and smaller:
            _stamp(outcome.model, bytes_before)
        unchanged = not (changed and smaller)
        final = clone(original) if unchanged else outcome.model
        self.emit(Event("stage", "result"))
        limit = self.max_error if self.strict else None
        finish = Finish(original, reference, samples.judge, self.threads, limit, measure)
        checked = self._finished(finish, final, source if unchanged else None)
        report = Summary(
            passes=str(self.pipeline),
            target=self.target.name,
            stages=outcome.stages,
            bytes_before=bytes_before,
            bytes_after=checked.nbytes,
            cost_before=cost(original, feeds[0]),
            cost_after=cost(final, feeds[0]),
            quality=checked.quality,
            error=checked.error if checked.quality.outputs else None,
            max_error=self.max_error,
            drawn=samples.drawn,
            fitted=len(samples.fit),
            judged=len(feeds),
            timing=checked.timing,
            accuracy=checked.accuracy,
            unchanged=unchanged,
            seconds=time.perf_counter() - start,
            warnings=(
                *_about_the_input(original, reference),
                *_about_the_result(outcome, checked, self.max_error, changed, smaller),
            ),
            versions=versions(),
        )
        return Result(kinds.like(self.given, final, self.out), report)

    def _spare(self, original: Model) -> None:
        """Raise OutputError where the result would take the place of the input's data."""
        if self.out is None or not self.out.exists():
            return
        if any(self.out.samefile(path) for path in original.storage.paths()[1:]):
            hint = "the input would be lost; choose another name"
            raise OutputError("it holds the weights of the input", hint, str(self.out))

    def _refuse_blind(self, reference: Reference) -> None:
        """Raise QualityError where nothing could tell what a pass does to the model."""
        if reference.judges or all(item.exact for item in self.pipeline.passes):
            return
        name, reason = next(iter(reference.unjudged.items()), ("none", "there"))
        raise QualityError(
            f"its quality cannot be judged: the output {name} {reason}",
            "give real inputs with --calib, or clean up only: --passes fold",
        )

    def _finished(self, finish: Finish, final: Model, copied: Path | None) -> Checked:
        if self.out is None:
            return finish.kept(final)
        return finish.copied(copied, self.out) if copied else finish.written(final, self.out)


def _check_numbers(
    max_error: float, threads: int | None, seed: int, memory: int | None, timeout: float | None
) -> None:
    for name, value, fine in (
        ("max-error", max_error, max_error >= 0),  # not a number is not fine
        ("threads", threads, threads is None or threads >= 1),
        ("seed", seed, seed >= 0),
        ("memory", memory, memory is None or memory >= 1),
        ("timeout", timeout, timeout is None or timeout > 0),
    ):
        if not fine:
            raise OptionError(f"--{name} cannot be {value}", "see onnx-compress --help")


def _libraries(paths: Sequence[str | Path]) -> list[Path]:
    found = [Path(path).absolute() for path in paths]
    for path in found:
        if not path.is_file():
            raise LoadError("no such library of custom operators", "check the path", str(path))
    return found


def _stamp(model: Model, room: int) -> None:
    """Put digests into the metadata, unless only they would make the file larger than it was."""
    digests.stamp(model)
    if files.file_size(model) > room:
        model.set_metadata(digests.KEY, None)


def _bytes(model: Model, source: Path | None) -> int:
    """What a model took: the file it came from, and what lies beside it."""
    if source is None:
        return files.file_size(model)
    return source.stat().st_size + sum(p.stat().st_size for p in model.storage.paths()[1:])


def _samples(model: Model, session: Runner, source: data.Source | None, seed: int) -> _Data:
    if source is None:
        drawn = draw(model, session, _DRAWN, seed)
        return _Data((), data.Samples(drawn), drawn=True)
    samples = data.read(source, session.inputs)
    if len(samples.feeds) < 2:
        raise CalibrationError("one sample only", "give one to fit and one to judge, at least")
    return _Data(samples.every_second(0).feeds, samples.every_second(1), drawn=False)


def _about_the_input(model: Model, reference: Reference) -> list[str]:
    found = [f"the output {name} {why}: not judged" for name, why in reference.unjudged.items()]
    touched = [name or "a small one" for name in digests.changed(model)]
    if touched:
        others = f" and {len(touched) - 1} more" if len(touched) > 1 else ""
        found.append(f"weights were changed after this tool wrote them: {touched[0]}{others}")
    if not fits(model):
        found.append("run in pieces, which --memory bounds: its speed was not measured")
    if reference.drawn:
        found.append("no data given: judged on drawn inputs; give real ones with --calib")
    return found


def _about_the_result(
    outcome: Outcome, checked: Checked, max_error: float, changed: bool, smaller: bool
) -> list[str]:
    found = [
        f"{stage.name} failed and was left out: {stage.failure}"
        for stage in outcome.stages
        if stage.failure
    ]
    if checked.error > max_error:
        allowed = f"is above {max_error:.3g}: numbers given are obeyed"
        found.append(f"the error {checked.error:.3g} {allowed}")
    if changed and not smaller:
        found.append("the result was larger than the input, so the input was kept")
    return found
