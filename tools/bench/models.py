"""Whole models: size, error, speed and accuracy of a pipeline, one row a model.

    python -m onnx_compress.bench.fetch FOLDER --torch
    python -m onnx_compress.bench.models FOLDER model.onnx=data.npz --passes "quant(bits=8)"

Of a folder, every NAME.onnx with its NAME.npz. Speed is one thread, the original and the result in
turn on the same inputs, median of the paired ratio and its quartiles. Errors are on inputs not used
for fitting; without data they are drawn, which is good for speed and says little about quality.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnx_compress.compressor import compress
from onnx_compress.ir.errors import CompressError
from onnx_compress.result import Summary

_COLUMNS = ("model", "MB", "smaller", "dB", "error", "speed (quartiles)", "accuracy", "how")
Job = tuple[Path, Path | None]  # a model, and its data if there are any


def jobs(given: Sequence[str]) -> Iterator[Job]:
    """The models of folders, MODEL.onnx and MODEL.onnx=DATA.npz, in their order."""
    for text in given:
        if Path(text).is_dir():
            for model in sorted(Path(text).glob("*.onnx")):
                data = model.with_suffix(".npz")
                yield model, data if data.exists() else None
        else:
            name, _, beside = text.partition("=")
            yield Path(name), Path(beside) if beside else None


def row(model: Path, data: Path | None, passes: str) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            report = compress(model, passes, data, Path(scratch) / "out.onnx").report
        except CompressError as error:
            return _failed(model, f"{type(error).__name__}: {error}")
    return line([model.stem, *_figures(report)])


def row_apart(model: Path, data: Path | None, passes: str) -> str:
    """The same, out of a process of its own: whatever ends it, the table goes on."""
    job = f"{model}={data}" if data else str(model)
    command = [sys.executable, "-m", "onnx_compress.bench.models", job, "--passes", passes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return _failed(model, f"exit {done.returncode}: {said[-1] if said else 'nothing said'}")
    return done.stdout.splitlines()[-1]


def line(cells: Sequence[str]) -> str:
    """As the tables of Markdown have it."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _failed(model: Path, text: str) -> str:
    return line([model.stem, *[""] * (len(_COLUMNS) - 2), " ".join(text.split())])


def _figures(report: Summary) -> list[str]:
    speed = accuracy = "-"
    if report.timing is not None:
        low, high = report.timing.spread[1]
        speed = f"{report.timing.ratio[1]:.2f}x ({low:.2f} to {high:.2f})"
    if report.metric is not None:
        accuracy = f"{report.metric.before:.3f} -> {report.metric.after:.3f}"
    taken = [stage for stage in report.stages if stage.report.changes and stage.name != "fold"]
    return [
        f"{report.bytes_before / 1e6:.2f} -> {report.bytes_after / 1e6:.2f}",
        f"{report.ratio:.2f}x",
        f"{report.quality.sqnr_db:.1f}{' (drawn)' * report.drawn}" if report.quality else "-",
        "-" if report.error is None else f"{report.error:.3f}",
        speed,
        accuracy,
        ", ".join(f"{stage.name} {stage.report.summary}" for stage in taken) or "nothing taken",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="FOLDER, MODEL.onnx or MODEL.onnx=DATA.npz")
    parser.add_argument("--passes", default="quant(bits=8)")
    parser.add_argument("--apart", action="store_true", help="each model in a process of its own")
    options = parser.parse_args()
    measure = row_apart if options.apart else row
    print(line(_COLUMNS))
    print(line(["---"] * len(_COLUMNS)))
    for model, data in jobs(options.models):
        print(measure(model, data, options.passes), flush=True)


if __name__ == "__main__":
    main()
