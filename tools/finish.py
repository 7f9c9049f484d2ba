"""The last look: the result is written aside, loaded back, run and compared; then it appears."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_compress.calibration import Samples
from onnx_compress.ir.errors import QualityError, VerificationError
from onnx_compress.ir.graph import Model, files, staged
from onnx_compress.ir.runtime import (
    Feed,
    Runner,
    Session,
    Timing,
    compare_speed,
    fits,
    open_session,
)
from onnx_compress.passes.verify import Quality, Reference
from onnx_compress.result import Accuracy

_SINGLE = 1 << 29  # bytes up to which a model that came with external data becomes one file


@dataclass(frozen=True)
class Checked:
    """What was found."""

    quality: Quality
    error: float
    timing: Timing | None
    accuracy: Accuracy | None
    nbytes: int


@dataclass(frozen=True)
class Finish:
    """Compares a result with the original.

    `limit`: error above which nothing is written. `measure`: also time it.
    """

    original: Model
    reference: Reference
    judge: Samples
    threads: int
    limit: float | None
    measure: bool

    def kept(self, model: Model) -> Checked:
        """Check a result that stays in memory."""
        return self._checked(open_session(model, self.threads), None, files.file_size(model))

    def written(self, model: Model, out: Path) -> Checked:
        """Write a result, unless it is broken or worse than the limit."""
        with staged.Staged(model, out, self._external(model)) as aside:
            session = open_session(aside.path, self.threads)
            checked = self._checked(session, aside.path, aside.nbytes)
            aside.commit()
            return checked

    def copied(self, source: Path, out: Path) -> Checked:
        """Put the input, unchanged, in the place of the result.

        One with external data becomes a single file, where that is possible.
        """
        if files.is_external(self.original):
            return self.written(self.original, out)
        nbytes = source.stat().st_size
        checked = self._checked(open_session(source, self.threads), None, nbytes)
        if not (out.exists() and out.samefile(source)):
            with staged.placed(out) as hidden:
                shutil.copyfile(source, hidden)
        return checked

    def _external(self, model: Model) -> bool | None:
        large = files.file_size(model) > _SINGLE
        return True if large and files.is_external(self.original) else None

    def _checked(self, session: Runner, timed: Path | None, nbytes: int) -> Checked:
        quality = self.reference.judge(session)
        error = self.reference.error(quality)
        if not np.isfinite(error):
            raise VerificationError("the result gives NaN where the original gives numbers")
        if self.limit is not None and error > self.limit:
            hint = "allow a larger --max-error, or ask for less; nothing was written"
            raise QualityError(f"the error is {error:.3g}, above {self.limit:.3g}", hint)
        return Checked(quality, error, self._timing(timed), self._accuracy(session), nbytes)

    def _timing(self, path: Path | None) -> Timing | None:
        """The result against the original, one thread."""
        if path is None or not self.measure or not fits(self.original):
            return None
        sessions = [Session(self.original), Session(path)]
        return compare_speed(sessions, self.reference.feeds)

    def _accuracy(self, session: Runner) -> Accuracy | None:
        labels, feeds = self.judge.labels, self.judge.feeds
        if labels is None:
            return None
        original = open_session(self.original, self.threads)
        before, after = (_top1(model, feeds, labels) for model in (original, session))
        return Accuracy(before, after, len(labels))


def _top1(session: Runner, feeds: Sequence[Feed], labels: Sequence[int]) -> float:
    """Share of samples whose first output is largest at the label."""
    right = 0
    for outputs, label in zip(session.run_all(feeds), labels, strict=True):
        right += int(np.asarray(outputs[0]).reshape(-1).argmax()) == label
    return right / max(len(labels), 1)
