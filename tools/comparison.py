"""compare(): two models against each other, as they run here."""

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_compress import calibration as data
from onnx_compress.ir.errors import CalibrationError, OptionError
from onnx_compress.ir.graph import Model, files
from onnx_compress.ir.runtime import Feed, Session, Timing, compare_speed
from onnx_compress.ir.runtime.probe import Footprint, footprint, save_feed
from onnx_compress.passes import Event
from onnx_compress.passes.base import ignore
from onnx_compress.passes.samples import draw
from onnx_compress.passes.verify import Quality, Reference
from onnx_compress.report import finite

_SAMPLES = 16  # that outputs are compared on
_LOADS = 5  # processes for each model


@dataclass(frozen=True)
class Comparison:
    """Figures of the first model and of the second, in pairs.

    `quality`: the outputs of the second against those of the first; None where they have not the
    same names. `error` is the number of it that decides. `drawn`: on drawn inputs.
    """

    bytes: tuple[int, int]
    timing: Timing
    footprints: tuple[Footprint, Footprint]
    threads: int
    quality: Quality | None
    error: float | None
    drawn: bool

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON, which has no infinity."""
        figures: dict[str, Any] = finite(asdict(self))
        return figures


def compare(
    first: str | Path,
    second: str | Path,
    calibration: data.Source | None = None,
    *,
    threads: int = 1,
    seconds: float = 5.0,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> Comparison:
    """Speed in turn on the same inputs, time to load and memory in processes of their own.

    `threads`: that one run may take. `seconds`: for the speed. Raises CalibrationError where the
    models do not take the same inputs.
    """
    if threads < 1 or threads > 4 * (os.cpu_count() or 1):
        raise OptionError(f"--threads cannot be {threads}", "at most four times the processors")
    if seed < 0:
        raise OptionError(f"--seed cannot be {seed}", "it is a whole number from 0 on")
    if not seconds > 0:
        raise OptionError(f"--seconds cannot be {seconds}", "give it a few")
    on_event(Event("stage", "loading"))
    paths = Path(first), Path(second)
    models = [files.load(path) for path in paths]
    sessions = [Session(path, intra=threads) for path in paths]
    feeds, drawn = _feeds(models[0], sessions[0], calibration, seed)
    _same_inputs(sessions, feeds[0], paths)
    quality = error = None
    if [p.name for p in sessions[0].outputs] == [p.name for p in sessions[1].outputs]:
        reference = Reference(sessions[0], feeds, drawn)
        quality = reference.judge(sessions[1])
        error = reference.error(quality) if quality.outputs else None
    on_event(Event("stage", "speed"))
    timing = compare_speed(sessions, feeds, seconds, threads)
    del sessions
    on_event(Event("stage", "loading time and memory"))
    pair = _footprints(paths, feeds[0], threads)
    sizes = files.stored_bytes(models[0], paths[0]), files.stored_bytes(models[1], paths[1])
    return Comparison(sizes, timing, pair, threads, quality, error, drawn)


def _feeds(
    model: Model, session: Session, source: data.Source | None, seed: int
) -> tuple[Sequence[Feed], bool]:
    if source is None:
        try:
            return draw(model, session, 1, seed), True
        except CalibrationError as error:
            raise CalibrationError(error.message, "give real inputs with --data") from None
    return data.read(source, session.inputs).feeds[:_SAMPLES], False


def _same_inputs(sessions: list[Session], feed: Feed, paths: tuple[Path, Path]) -> None:
    names = [sorted(port.name for port in session.inputs) for session in sessions]
    if names[0] != names[1]:
        text = f"it takes {', '.join(names[1])}, not {', '.join(names[0])}"
        raise CalibrationError(text, "give two models with the same inputs", str(paths[1]))
    for port in sessions[1].inputs:
        mismatch = port.mismatch(feed[port.name])
        if mismatch:
            hint = "give two models with the same inputs"
            raise CalibrationError(f"it does not take {mismatch}", hint, f"{paths[1]}: {port.name}")


def _footprints(paths: tuple[Path, Path], feed: Feed, threads: int) -> tuple[Footprint, Footprint]:
    with tempfile.TemporaryDirectory(prefix="onnx-compress-") as folder:
        place = save_feed(feed, Path(folder))
        rounds = [[footprint(path, place, threads) for path in paths] for _ in range(_LOADS)]
    first, second = (_median([one[at] for one in rounds]) for at in range(2))
    return first, second


def _median(found: list[Footprint]) -> Footprint:
    def middle(values: list[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return int(statistics.median(known)) if known else None

    return Footprint(
        statistics.median(one.load_seconds for one in found),
        middle([one.loaded_bytes for one in found]),
        middle([one.peak_bytes for one in found]),
    )
