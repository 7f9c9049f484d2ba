"""Statistics of a model against plain inference and ONNX Runtime's own calibration.

    python -m onnx_compress.bench.statistics model.onnx=data.npz --samples 32

Each in a process of its own, over the same samples, one thread, from the opening of a session on:
`plain` runs them, `moments` collects the second moment of every weight's inputs, of the model as
`fold` leaves it, which is what passes look at; `calibration` is onnxruntime.quantization's, by
minimum and maximum. Peak memory is what is added to that of the imports; `moments` is also run on
half of the samples, to see whether it grows with them. Times are seconds of processor, medians of
`--runs`, in turn.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from onnx_compress.calibration import read
from onnx_compress.ir.graph import files
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.ir.runtime.pieces import declared_port
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.inputs import source
from onnx_compress.passes import Context
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.statistics import Moment, collect

Work = Callable[[], Any]


def _plain(model: Path, feeds: Sequence[Feed]) -> Work:
    loaded = files.load(model)
    return lambda: [None for _ in open_session(loaded).run_all(feeds)]


def _moments(model: Path, feeds: Sequence[Feed]) -> Work:
    loaded = files.load(model)
    Fold().run(loaded, Context(targets.load("portable"), feeds[0]))
    uses = [use for weight in find_weights(loaded) for use in weight.uses if source(use)]
    return lambda: collect(loaded, [Moment(use) for use in uses], feeds)


class _Reader:
    """As onnxruntime.quantization wants its samples."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _calibration(model: Path, feeds: Sequence[Feed]) -> Work:
    tools: Any = import_module("onnxruntime.quantization.calibrate")
    folder = tempfile.mkdtemp()

    def work() -> None:
        made = tools.create_calibrator(
            str(model), augmented_model_path=str(Path(folder) / "augmented.onnx")
        )
        made.collect_data(_Reader(feeds))
        made.compute_data()

    return work


WORKS: dict[str, Callable[[Path, Sequence[Feed]], Work]] = {
    "plain": _plain,
    "moments": _moments,
    "calibration": _calibration,
}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _once(name: str, model: Path, data: Path, samples: int) -> None:
    """One work, after the imports that it makes by itself."""
    for needed in ("onnxruntime", "scipy.linalg", "threadpoolctl", "onnxruntime.quantization"):
        import_module(needed)
    feeds = read(data, [declared_port(value) for value in files.load(model).inputs()]).feeds
    given = [feeds[at % len(feeds)] for at in range(samples)]
    before = _peak()
    work = WORKS[name](model, given)
    start = time.process_time()
    work()
    print(json.dumps({"seconds": time.process_time() - start, "peak": _peak() - before}))


def _apart(name: str, job: str, samples: int) -> dict[str, float]:
    command = [sys.executable, "-m", "onnx_compress.bench.statistics", job]
    done = subprocess.run(
        [*command, "--samples", str(samples), "--one", name], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} on {job}: {done.stderr.strip()[-300:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _round(job: str, samples: int) -> dict[str, dict[str, float]]:
    return {name: _apart(name, job, samples) for name in WORKS}


def main() -> None:
    """Print a table, one row a model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="MODEL.onnx=DATA.npz")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        model, _, data = options.models[0].partition("=")
        _once(options.one, Path(model), Path(data), options.samples)
        return
    print("| model | plain s | moments s | ratio | calibration s | MB: plain | moments", end="")
    print(" | of half the samples | calibration |")
    print("| --- " * 9 + "|")
    for job in options.models:
        rounds = [_round(job, options.samples) for _ in range(options.runs)]
        seconds = {name: median(found[name]["seconds"] for found in rounds) for name in WORKS}
        peak = {name: median(found[name]["peak"] for found in rounds) for name in WORKS}
        ratio = median(found["moments"]["seconds"] / found["plain"]["seconds"] for found in rounds)
        half = _apart("moments", job, options.samples // 2)["peak"]
        cells = [f"{seconds['plain']:.2f}", f"{seconds['moments']:.2f}", f"{ratio:.1f}x"]
        cells += [f"{seconds['calibration']:.2f}", f"{peak['plain']:.0f}", f"{peak['moments']:.0f}"]
        cells += [f"{half:.0f}", f"{peak['calibration']:.0f}"]
        print(f"| {Path(job.partition('=')[0]).stem} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
