"""Damaged files: real models with a few bytes changed, each through the whole command.

    python -m onnx_compress.bench.fuzz model.onnx other.onnx --count 20000

Each must end with a result or with two lines that say what is wrong: no traceback, no crash of a
library underneath, nothing half written, the input untouched, within 60 seconds and 1 GB. Most
bytes of a model are weights; four changes in five are made elsewhere. Needs fork, so no Windows.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from onnx_compress import cli
from onnx_compress.ir.graph import Model, load
from onnx_compress.ir.graph.wire import reference

SECONDS, MEGABYTES = 60, 1024
_CODES = (0, 3, 4, 5, 6, 7, 8)  # what a bad model may end with


@dataclass(frozen=True)
class Source:
    """A model's bytes, and the ranges of them that are no weights."""

    path: Path
    data: bytes
    ranges: tuple[tuple[int, int], ...]

    @staticmethod
    def read(path: Path) -> "Source":
        """Read a model of one file."""
        data = path.read_bytes()
        ranges, at = [], 0
        for start, stop in sorted(_weights(load(path))):
            ranges.append((at, start))
            at = max(at, stop)
        ranges.append((at, len(data)))
        return Source(path, data, tuple((a, b) for a, b in ranges if b > a))


def _weights(model: Model) -> Iterator[tuple[int, int]]:
    for graph in model.graphs():
        for _, tensor in model.stored(graph):
            if getattr(tensor, "data_location", 0) == 1:
                blob = reference(tensor)
                yield blob.offset, blob.offset + blob.length


def damaged(source: Source, rng: random.Random) -> bytes:
    """The model with one to eight changes: bytes set, flipped, cut out, put in, copied."""
    data = bytearray(source.data)
    spans = [stop - start for start, stop in source.ranges]

    def place() -> int:
        if rng.random() < 0.8:
            start, stop = rng.choices(source.ranges, spans)[0]
            return min(rng.randrange(start, stop), len(data) - 1)
        return rng.randrange(len(data))

    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, length = place(), rng.choice((1, 2, 4, 16))
        kind = rng.choices(range(7), (45, 20, 10, 8, 8, 6, 3))[0]
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:  # a number as long as numbers get
            data[at : at + 10] = b"\xff" * 9 + b"\x01"
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.randbytes(length)
        elif kind == 5:
            other = place()
            data[at : at + length] = data[other : other + length]
        else:
            del data[at:]
        data = data or bytearray(1)
    return bytes(data)


def attempt(data: bytes, passes: str, folder: Path) -> tuple[int, str]:
    """Exit code of one run on these bytes, and what was wrong with it: "" if nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source, out, log = folder / "in.onnx", folder / "out.onnx", folder / "log"
    source.write_bytes(data)
    start = time.monotonic()
    child = os.fork()
    if not child:
        _run([str(source), str(out), "--passes", passes, "--quiet"], log, folder)
    _, status, usage = os.wait4(child, 0)
    seconds, code = time.monotonic() - start, os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace").strip()
    lines = len(said.splitlines())
    problems = [
        text
        for wrong, text in (
            (code not in _CODES, f"exit {code}"),
            ("Traceback" in said, "a traceback"),
            (lines != (2 if code else 0), f"{lines} lines"),
            (code and out.exists(), "written all the same"),
            (not code and not out.exists(), "nothing written"),
            (source.read_bytes() != data, "the input was changed"),
            ({*os.listdir(folder)} - {"in.onnx", "out.onnx", "log"}, "files left behind"),
            (usage.ru_maxrss > MEGABYTES << 10, f"{usage.ru_maxrss >> 10} MB"),
            (seconds > SECONDS, f"{seconds:.0f} s"),
        )
        if wrong
    ]
    return code, f"{', '.join(problems)}: {said[-300:]}" if problems else ""


def _run(arguments: list[str], log: Path, folder: Path) -> None:
    """The command, in a child process, which ends here."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEGABYTES << 20, MEGABYTES << 20))
    signal.alarm(SECONDS + 5)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    tempfile.tempdir = str(folder)
    code = 98
    try:
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        code = cli.main(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def run(
    models: Sequence[Path], count: int, seed: int, passes: str
) -> tuple[Counter[int], list[str]]:
    """Exit codes of `count` damaged models, and a line for each that went wrong."""
    _import_all()
    sources = [Source.read(path) for path in models]
    codes: Counter[int] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(seed, seed + count):
            rng = random.Random(number)
            source = rng.choice(sources)
            code, problem = attempt(damaged(source, rng), passes, Path(folder) / "case")
            codes[code] += 1
            if problem:
                wrong.append(f"seed {number}, {source.path.name}: {problem}")
    return codes, wrong


def _import_all() -> None:
    """What the command imports when first needed is imported once, not in every child."""
    for name in ("llvmlite.binding", "onnx.reference", "onnxruntime", "rich.console"):
        import_module(name)


def main() -> None:
    """Run, and end with 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passes", default="quant(bits=8)")
    options = parser.parse_args()
    codes, wrong = run(options.models, options.count, options.seed, options.passes)
    print("\n".join(wrong))
    ends = ", ".join(f"{count} ended with {code}" for code, count in sorted(codes.items()))
    print(f"{options.count} damaged models: {ends}; {len(wrong)} went wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
