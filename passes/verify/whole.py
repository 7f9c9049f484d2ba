"""Whole model: how far its outputs are from the original's, in every way in which it may be run.

    optimized, 1 thread | as written, 1 thread | optimized, several threads

The runtime gives the same bits at any number of threads; it does not with its optimizations on and
off, where integer kernels round what floats do not.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.graph import Model
from onnx_compress.ir.runtime import Runner, Session, fits, open_session
from onnx_compress.passes.verify.agreement import Agreeing, Agreement
from onnx_compress.passes.verify.finding import Finding, Severity
from onnx_compress.passes.verify.quality import Quality
from onnx_compress.passes.verify.reference import Reference

LEVEL = "whole model"


@dataclass(frozen=True)
class Setting:
    """A way to run a model."""

    optimized: bool
    threads: int

    def __str__(self) -> str:
        many = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{'optimized' if self.optimized else 'as written'}, {many}"


@dataclass(frozen=True)
class Run:
    """How one way of running it compares. `error` is the number that decides (see `Reference`)."""

    setting: Setting
    outputs: tuple[Agreement, ...]
    error: float


@dataclass(frozen=True)
class WholeModel:
    """`runs`: the usual one first. `same_bits`: whether more threads give the same bits."""

    runs: tuple[Run, ...]
    same_bits: bool | None
    findings: tuple[Finding, ...]

    @property
    def error(self) -> float:
        """Of the usual way: optimized, in one thread."""
        return self.runs[0].error


def compared(
    file: Path | Model,
    model: Model,
    reference: Reference,
    max_error: float | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> WholeModel:
    """Run a model in each way on the samples of the reference. Raises InvalidError.

    `file`: what the runtime reads; `model`: the same.
    """
    settings = [Setting(True, 1), Setting(False, 1)]
    at_once = reference.threads  # samples, each of them in one thread
    sessions: list[Runner] = [
        open_session(file, at_once),
        open_session(file, at_once, optimize=False),
    ]
    several = max(os.cpu_count() or 1, 2)
    if fits(model):
        settings.append(Setting(True, several))
        sessions.append(Session(file, intra=several, spin=False))
    sums = [[Agreeing(name) for name in reference.names] for _ in sessions]
    runs = [session.run_all(reference.feeds) for session in sessions]
    judged = [at for at, name in enumerate(reference.names) if name not in reference.unjudged]
    same = True
    for done, expected in enumerate(reference.outputs()):
        results = [next(run) for run in runs]
        for agreeing, outputs in zip(sums, results, strict=True):
            for one, r, y in zip(agreeing, expected, outputs, strict=True):
                one.add(r, y)
        same &= _same(*([outputs[at] for at in judged] for outputs in (results[0], results[-1])))
        progress(done + 1, len(reference.feeds))
    found = tuple(
        _run(setting, [agreeing[at].result() for at in judged], reference)
        for setting, agreeing in zip(settings, sums, strict=True)
    )
    same_bits = same if len(settings) > 2 else None
    unjudged = [
        Finding(LEVEL, Severity.WARNING, name, f"it {why}: not judged")
        for name, why in reference.unjudged.items()
    ]
    findings = (*_findings(found, same_bits, max_error), *unjudged)
    return WholeModel(found, same_bits, findings)


def _run(setting: Setting, outputs: list[Agreement], reference: Reference) -> Run:
    error = reference.error(Quality(tuple(one.quality for one in outputs)))
    return Run(setting, tuple(outputs), error)


def _same(one: list[Any], other: list[Any]) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(one, other, strict=True)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype != object
    )


def _findings(
    runs: tuple[Run, ...], same_bits: bool | None, max_error: float | None
) -> list[Finding]:
    found = []
    for run in runs:
        if run.error == float("inf"):
            text = f"gives NaN, or another shape, where the original gives numbers ({run.setting})"
            worst = max(run.outputs, key=lambda one: one.quality.error)
            found.append(Finding(LEVEL, Severity.WRONG, worst.name, text))
    if same_bits is False:
        text = "the outputs differ between one thread and several"
        found.append(Finding(LEVEL, Severity.WARNING, "", text))
    if max_error is not None and max_error < runs[0].error < float("inf"):
        text = f"the error {runs[0].error:.3g} is above {max_error:.3g}"
        found.append(Finding(LEVEL, Severity.WRONG, "", text, is_limit=True))
    return found
