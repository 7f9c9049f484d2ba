"""compress() and plan(): what a run takes, checked before anything is loaded."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress import calibration as data
from onnx_compress.ir.errors import CancelledError, LoadError, OptionError
from onnx_compress.ir.graph import staged
from onnx_compress.ir.runtime import limits
from onnx_compress.passes import Event, Pass, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.base import ignore
from onnx_compress.result import Result, Summary
from onnx_compress.run import Run

DEFAULT_PASSES = "prune,quant"
Passes = str | Pass | Sequence[Pass]


def compress(
    model: Any,
    passes: Passes = DEFAULT_PASSES,
    calibration: data.Source | None = None,
    out: str | Path | None = None,
    max_error: float | None = None,
    *,
    max_drop: float | None = None,
    metric: Callable[[Any], float] | None = None,
    strict: bool = False,
    target: str | None = None,
    fold: bool = True,
    verify: bool = True,
    exclude: Sequence[str] = (),
    layers: bool = False,
    seed: int = 0,
    threads: int | None = None,
    keep_going: bool = False,
    memory: int | None = None,
    timeout: float | None = None,
    custom_ops: Sequence[str | Path] = (),
    cache: str | Path | None = None,
    measure: bool = True,
    on_event: Callable[[Event], None] = ignore,
    cancel: threading.Event | None = None,
) -> Result:
    """Make a model smaller, and check the result.

    `model`: a path, a ModelProto, an onnx-graphsurgeon Graph, an onnx_ir.Model, or a Model; it is
    not changed. `passes`: as text, `"prune,quant(bits=8)"`, a Pass, several, or a Pipeline.
    `calibration`: see `onnx_compress.calibration`. `out`: where to write the result.

    `max_error`: what passes without numbers keep within, 0.15 unless `max_drop` is given.
    `max_drop`: how far the metric may fall: accuracy on `__labels__`, or `metric(session)`, higher
    is better, `session` like an onnxruntime.InferenceSession. `strict`: write nothing, and raise
    QualityError, where the result exceeds these. `verify=False`: only load the result.

    `target`: a shipped target or a TOML file; by default that of this processor. `fold`: exact
    clean-up first. `exclude`: names of weights or of nodes, with * and ?, to leave alone.
    `layers`: also try each weight alone, see `Summary.layers`; takes as many runs. `keep_going`:
    leave out passes that fail. `memory`: bytes of weights up to which a model is run whole; larger
    ones are run in pieces. `timeout`: seconds that one run may take. `custom_ops`: libraries of
    operators that the model needs; they are loaded and run, so give only what you trust.
    `cache`: a folder for what was found out about the data, where a later run finds it again.
    `measure`: time the result against the original.

    `on_event` is called on this thread with every Event; what it raises ends the run. Once `cancel`
    is set, the run ends with CancelledError. Nothing is printed, no logger is touched, and runs
    on several threads do not disturb each other.

    The result's model is of the kind given (for a path: the path written, or a ModelProto if
    there is no `out`). Raises the errors of `onnx_compress.ir.errors`.
    """
    _check_numbers(max_error, max_drop, threads, seed, memory, timeout)
    if out is not None:
        staged.check_place(out)
    listener = _Listener(on_event, cancel)
    with _surroundings(memory, timeout, custom_ops, listener):
        run = _run(
            model, passes, calibration, max_error, max_drop, target, fold, exclude, seed, listener
        )
        place = Path(out) if out is not None else None
        return replace(
            run,
            out=place,
            threads=threads or os.cpu_count() or 1,
            keep_going=keep_going,
            metric=metric,
            strict=strict,
            verify=verify,
            layers=layers,
            measure=measure,
            cache=Path(cache) if cache is not None else None,
        ).result()


def plan(
    model: Any,
    passes: Passes = DEFAULT_PASSES,
    calibration: data.Source | None = None,
    max_error: float | None = None,
    *,
    max_drop: float | None = None,
    target: str | None = None,
    fold: bool = True,
    exclude: Sequence[str] = (),
    seed: int = 0,
    threads: int | None = None,
    keep_going: bool = False,
    memory: int | None = None,
    timeout: float | None = None,
    custom_ops: Sequence[str | Path] = (),
    cache: str | Path | None = None,
    on_event: Callable[[Event], None] = ignore,
    cancel: threading.Event | None = None,
) -> Summary:
    """What `compress` would do: every change, sizes, memory, speed by the target.

    Passes change a copy in memory; nothing is compared, timed or written. Passes without numbers
    are shown at their strongest. Takes and raises what `compress` does.
    """
    _check_numbers(max_error, max_drop, threads, seed, memory, timeout)
    listener = _Listener(on_event, cancel)
    with _surroundings(memory, timeout, custom_ops, listener):
        run = _run(
            model, passes, calibration, max_error, max_drop, target, fold, exclude, seed, listener
        )
        place = Path(cache) if cache is not None else None
        return replace(run, threads=threads or 1, keep_going=keep_going, cache=place).planned()


def _run(
    model: Any,
    passes: Passes,
    calibration: data.Source | None,
    max_error: float | None,
    max_drop: float | None,
    target: str | None,
    fold: bool,
    exclude: Sequence[str],
    seed: int,
    listener: "_Listener",
) -> Run:
    """What decides about a result."""
    return Run(
        model,
        _pipeline(passes, fold),
        targets.load(target) if target else targets.host(),
        calibration,
        max_error=max_error,
        max_drop=max_drop,
        exclude=_patterns(exclude),
        seed=seed,
        emit=listener,
    )


class _Listener:
    """Hands events over. What the listener raises ends the run, even where a pass catches it."""

    def __init__(self, listen: Callable[[Event], None], cancel: threading.Event | None) -> None:
        self._listen, self._cancel = listen, cancel
        self._failed: CancelledError | None = None

    def __call__(self, event: Event) -> None:
        self.check()
        try:
            self._listen(event)
        except Exception as error:
            text = f"the listener failed: {type(error).__name__}: {error}"
            self._failed = CancelledError(text, "nothing was written")
            raise self._failed from error
        self.check()

    def check(self) -> None:
        """Raises CancelledError where the run is to end."""
        if self._failed is not None:
            raise self._failed
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError("cancelled", "nothing was written")


@contextmanager
def _surroundings(
    memory: int | None,
    timeout: float | None,
    custom_ops: Sequence[str | Path],
    listener: _Listener,
) -> Iterator[None]:
    """What a whole run keeps within."""
    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))  # NaN is looked for where it matters
        stack.enter_context(limits.custom_operators(_libraries(custom_ops)))
        stack.enter_context(limits.cancellable(listener.check))
        if memory is not None:
            stack.enter_context(limits.memory(memory))
        if timeout is not None:
            stack.enter_context(limits.timeout(timeout))
        yield


def _pipeline(passes: Passes, fold: bool) -> Pipeline:
    if isinstance(passes, str):
        return Pipeline.parse(passes, fold)
    if isinstance(passes, Pipeline):
        return passes.cleaned() if fold else passes
    several = (passes,) if isinstance(passes, Pass) else passes
    if not isinstance(several, Sequence) or any(not isinstance(item, Pass) for item in several):
        raise OptionError("passes are text, a Pass, or several", 'for example "quant(bits=8)"')
    several = tuple(several)
    return Pipeline(several).cleaned() if fold else Pipeline(several)


def _patterns(exclude: Sequence[str]) -> tuple[str, ...]:
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise OptionError("an empty name", "give names of weights or nodes", "--exclude")
    if any(pattern.encode(errors="replace").decode() != pattern for pattern in patterns):
        raise OptionError("a name that is no text", "names are UTF-8 in ONNX", "--exclude")
    return patterns


def _check_numbers(
    max_error: float | None,
    max_drop: float | None,
    threads: int | None,
    seed: int,
    memory: int | None,
    timeout: float | None,
) -> None:
    for name, value, fine in (
        ("max-error", max_error, max_error is None or max_error >= 0),  # not a number is not fine
        ("max-drop", max_drop, max_drop is None or max_drop >= 0),
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
