"""verify(): does a compressed model compute what it claims to?

file -> stored -> executed -> whole model -> layers -> verdict
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress import calibration as data
from onnx_compress.ir.errors import InvalidError, OptionError
from onnx_compress.ir.graph import Model, clone, kinds
from onnx_compress.ir.runtime import Feed, Runner, limits, open_session, versions
from onnx_compress.kernels.machine.compiled import prepare
from onnx_compress.passes import Context, Event, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import ignore
from onnx_compress.passes.samples import draw
from onnx_compress.passes.verify import Reference
from onnx_compress.passes.verify.finding import Finding, Severity, verdict
from onnx_compress.passes.verify.levels import Levels, Subject
from onnx_compress.verification_report import as_dict

_DRAWN = 2  # inputs, where none are given
_SAMPLES = 16  # that outputs are compared on
BAD, WORSE = 9, 6  # exit codes


@dataclass(frozen=True)
class Verification:
    """All that was found. `levels` is None where the compressed model does not run at all.

    `drawn`: on drawn inputs. `unjudged`: outputs that nothing can be told of, and why.
    """

    levels: Levels | None
    findings: tuple[Finding, ...]
    drawn: bool
    samples: int
    max_error: float | None
    unjudged: dict[str, str]
    seconds: float
    versions: dict[str, str]

    @property
    def verdict(self) -> str:
        """sound, suspect or wrong; worse where only the error is above its limit."""
        rest = [finding for finding in self.findings if not finding.is_limit]
        found = verdict(rest)
        return "worse" if found == "sound" and len(rest) < len(self.findings) else found

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return {"sound": 0, "worse": WORSE}.get(self.verdict, BAD)

    @property
    def warnings(self) -> list[str]:
        """Findings that do not make a model wrong, in words."""
        return [str(one) for one in self.findings if one.severity == Severity.WARNING]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: see docs/verify.md."""
        return as_dict(self)


def verify(
    original: Any,
    compressed: Any,
    data: data.Source | None = None,
    *,
    max_error: float | None = None,
    layers: bool = True,
    seed: int = 0,
    threads: int | None = None,
    memory: int | None = None,
    timeout: float | None = None,
    custom_ops: Sequence[str | Path] = (),
    on_event: Callable[[Event], None] = ignore,
) -> Verification:
    """Hold a compressed model against its original: what is stored, what is run, what comes out.

    Both may be a path, a ModelProto, an onnx-graphsurgeon Graph, an onnx_ir.Model, or a Model;
    neither is changed. `data`: real inputs, as the `calibration` of `compress`; drawn without.
    `max_error`: above it the verdict is "worse". `layers`: also tell where the error comes from.
    The rest is that of `compress`.

    Raises the errors of `onnx_compress.ir.errors` where the original cannot be run; what is wrong
    with the compressed model is among the findings.
    """
    if max_error is not None and not max_error >= 0:
        raise OptionError(f"--max-error cannot be {max_error}", "give a number from 0 on")
    if (threads is not None and threads < 1) or seed < 0:
        hint = "see onnx-compress verify --help"
        raise OptionError("--threads and --seed are whole numbers", hint)
    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(limits.custom_operators([Path(p).absolute() for p in custom_ops]))
        if memory is not None:
            stack.enter_context(limits.memory(memory))
        if timeout is not None:
            stack.enter_context(limits.timeout(timeout))
        return _verified(original, compressed, data, max_error, layers, seed, threads, on_event)


def _verified(
    original: Any,
    compressed: Any,
    source: data.Source | None,
    max_error: float | None,
    layers: bool,
    seed: int,
    threads: int | None,
    emit: Callable[[Event], None],
) -> Verification:
    start = time.perf_counter()
    emit(Event("stage", "original"))
    before, _ = kinds.read(original)
    after, path = kinds.read(compressed)
    session = open_session(before, threads or os.cpu_count() or 1)
    feeds, drawn = _feeds(before, session, source, seed)
    prepare()  # while the original runs
    reference = Reference(session, feeds, drawn)
    known = {"onnx-compress": version("onnx-compress"), **versions()}
    base = Verification(None, (), drawn, len(feeds), max_error, reference.unjudged, 0.0, known)
    strange = _not_running(after, path, feeds[0])
    if strange is not None:
        seconds = time.perf_counter() - start
        return replace(base, findings=(strange,), seconds=seconds)

    def progress(what: str, done: int, total: int) -> None:
        emit(Event("progress" if total else "stage", what, done, total))

    bases = before, _cleaned(before, feeds[0])
    subject = Subject(bases, after, path, reference, max_error, layers)
    levels = subject.levels(progress)
    seconds = time.perf_counter() - start
    return replace(base, levels=levels, findings=levels.findings, seconds=seconds)


def _feeds(
    model: Model, session: Runner, source: data.Source | None, seed: int
) -> tuple[Sequence[Feed], bool]:
    if source is None:
        return draw(model, session, _DRAWN, seed), True
    judged = data.read(source, session.inputs).held().feeds  # others may have been fitted to
    return [judged[at] for at in data.some(len(judged), _SAMPLES)], False


def _not_running(model: Model, path: Path | None, feed: Feed) -> Finding | None:
    """Why nothing can be compared; None if it runs."""
    try:
        session = open_session(path or model)
        names = {port.name for port in session.inputs}
        if names != set(feed):
            other = ", ".join(sorted(names))
            text = f"its inputs are {other}, not {', '.join(sorted(feed))}"
            return Finding("file", Severity.WRONG, "", text)
        session.run(feed)
    except InvalidError as error:
        return Finding("file", Severity.WRONG, error.where, error.message)
    return None


def _cleaned(model: Model, feed: Feed) -> Model:
    """As `compress` cleans it up before anything else."""
    copy = clone(model)
    Pipeline.parse("fold").run(copy, Context(targets.load("portable"), feed))
    return copy
