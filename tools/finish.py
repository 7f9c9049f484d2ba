"""The last look: the result is written aside, loaded back, run and compared; then it appears."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_compress.ir.errors import QualityError, VerificationError
from onnx_compress.ir.graph import Model, files, staged
from onnx_compress.ir.runtime import (
    Runner,
    Session,
    Timing,
    compare_speed,
    fits,
    limits,
    open_session,
)
from onnx_compress.passes.verify import Quality, Reference

_SINGLE = 1 << 29  # bytes up to which a model that came with external data becomes one file


@dataclass(frozen=True)
class Checked:
    """What was found."""

    quality: Quality
    error: float
    timing: Timing | None
    nbytes: int


class Refused(QualityError):
    """The result is worse than allowed. `checked`: how bad it is."""

    def __init__(self, message: str, hint: str, checked: Checked) -> None:
        super().__init__(message, hint)
        self.checked = checked


@dataclass(frozen=True)
class Finish:
    """Compares a result with the original.

    `max_error`, `max_drop`: above which nothing is written. `measure`: also time it.
    """

    original: Model
    reference: Reference
    threads: int
    max_error: float | None
    max_drop: float | None
    measure: bool

    def kept(self, model: Model) -> Checked:
        """Check a result that stays in memory."""
        checked = self._checked(open_session(model, self.threads), None, files.file_size(model))
        limits.check_cancelled()
        return checked

    def written(self, model: Model, out: Path) -> Checked:
        """Write a result, unless it is broken or worse than the limit."""
        with staged.Staged(model, out, self._external(model)) as aside:
            session = open_session(aside.path, self.threads)
            checked = self._checked(session, aside.path, aside.nbytes)
            limits.check_cancelled()
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
            limits.check_cancelled()
            with staged.placed(out) as hidden:
                shutil.copyfile(source, hidden)
        return checked

    def _external(self, model: Model) -> bool | None:
        large = files.file_size(model) > _SINGLE
        return True if large and files.is_external(self.original) else None

    def _checked(self, session: Runner, timed: Path | None, nbytes: int) -> Checked:
        quality = self.reference.judge(session, score=True)
        error = self.reference.error(quality)
        if not np.isfinite(error):
            raise VerificationError("the result gives NaN where the original gives numbers")
        found = Checked(quality, error, None, nbytes)
        hint = "or ask for less; nothing was written"
        if self.max_error is not None and error > self.max_error:
            text = f"the error is {error:.3g}, above {self.max_error:.3g}"
            raise Refused(text, f"allow a larger --max-error, {hint}", found)
        drop = self.reference.drop(quality)
        if self.max_drop is not None and drop > self.max_drop:
            text = f"the metric falls by {drop:.3g}, more than {self.max_drop:.3g}"
            raise Refused(text, f"allow a larger --max-drop, {hint}", found)
        return replace(found, timing=self._timing(timed))

    def _timing(self, path: Path | None) -> Timing | None:
        """The result against the original, one thread."""
        if path is None or not self.measure or not fits(self.original):
            return None
        sessions = [Session(self.original), Session(path)]
        return compare_speed(sessions, self.reference.feeds)
