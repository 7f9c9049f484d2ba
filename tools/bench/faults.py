"""Planted faults: does verify find each, and name the right node? And is it silent on sound models?

    python -m onnx_compress.bench.faults FOLDER-OF-MODELS --count 200 --sound 100

Three classes. *Stored*: a compressed file is changed after it was written, its digests kept or
taken off. *Emitted*: a form puts other numbers into the graph than it says. *Executed*: one low-bit
node of the runtime computes something else, played by another node in its place in the graph that
the runtime made. A fault counts if it moves the outputs further than rounding does.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_compress import compress
from onnx_compress.bench.planted import emitted, executed, stored
from onnx_compress.bench.planted.fault import Case, Outcome
from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import files
from onnx_compress.verification import verify

PIPELINES = (
    "quant(bits=8)",
    "quant(bits=8, activations='float')",
    "quant(bits=16)",
    "prune(sparsity=0.5),quant(bits=8)",
    "prune(sparsity=0.3)",
)
CLASSES = {"stored": stored.plant, "emitted": emitted.plant, "executed": executed.plant}
_LARGEST = 100 << 20  # bytes of a model that faults are planted in


@dataclass(frozen=True)
class Tally:
    """Outcomes by class, and a line for each that went wrong."""

    found: Counter[str]
    missed: list[str]


def cases(models: Sequence[Path], folder: Path, target: str | None = None) -> Iterator[Case]:
    """Each model through each pipeline, on drawn inputs; those that it leaves as it was are left.

    `target`: what passes choose by; targets that do not fit the machine give forms that it would
    not.
    """
    for path in models:
        for number, passes in enumerate(PIPELINES):
            out = folder / f"{path.stem}.{number}.onnx"
            try:
                result = compress(path, passes, out=out, measure=False, verify=False, target=target)
            except CompressError:
                continue
            if not result.report.unchanged:
                yield Case(path, out, passes)


def planted(found: Sequence[Case], count: int, seed: int) -> Tally:
    """Plant `count` faults of each class in turn over the cases, and look for each."""
    rng = random.Random(seed)
    tally = Tally(Counter(), [])
    at = tries = 0
    while at < count and tries < 20 * count:
        name = [*CLASSES][at % len(CLASSES)]
        case = found[tries % len(found)]
        tries += 1
        outcome = CLASSES[name](case, rng)
        if outcome is None:
            continue  # nothing to plant there, or nothing that shows
        at += 1
        _count(tally, name, case, outcome)
    return tally


def _count(tally: Tally, name: str, case: Case, outcome: Outcome) -> None:
    tally.found[f"{name}: {'found' if outcome.found else 'missed'}"] += 1
    tally.found[f"{name}: {outcome.kind}"] += 1
    if not outcome.found:
        tally.missed.append(f"{name}, {case}, {outcome}")


def alarms(found: Sequence[Case], count: int) -> list[str]:
    """A line for each sound model that verify finds fault with."""
    lines = []
    for case in found[:count]:
        for bare in (False, True):  # as written, and without digests
            model = files.load(case.compressed)
            if bare:
                model.set_metadata("onnx_compress.sha256", None)
            result = verify(case.original, model, layers=False)
            if result.verdict != "sound":
                what = "; ".join(map(str, result.findings[:2]))
                lines.append(f"{case}{', no digests' if bare else ''}: {result.verdict}: {what}")
    return lines


def main() -> None:
    """Print what was found and what was not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--only", default="", help="names of models, with commas between")
    parser.add_argument("--work", type=Path, required=True, help="a folder for compressed models")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--sound", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="what passes choose by; default: this processor")
    options = parser.parse_args()
    options.work.mkdir(exist_ok=True)
    paths = sorted(options.models.glob("*.onnx"))
    wanted = options.only.split(",") if options.only else [path.stem for path in paths]
    chosen = [p for p in paths if p.stem in wanted and p.stat().st_size <= _LARGEST]
    start = time.perf_counter()
    found = list(cases(chosen, options.work, options.target))
    print(f"{len(found)} compressed models, {time.perf_counter() - start:.0f} s", flush=True)
    wrong = alarms(found, options.sound)
    looked = min(len(found), options.sound)
    print(
        f"sound models: {looked}, each with and without digests; alarms: {len(wrong)}", flush=True
    )
    tally = planted(found, options.count, options.seed)
    for name, number in sorted(tally.found.items()):
        print(f"{number:5} {name}")
    for line in (*wrong, *tally.missed):
        print(line)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
