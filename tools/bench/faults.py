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
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx_compress import compress
from onnx_compress.bench.drawn import drawn
from onnx_compress.bench.planted import emitted, executed, stored
from onnx_compress.bench.planted.fault import Case, Outcome
from onnx_compress.ir.errors import CompressError
from onnx_compress.ir.graph import digests, files, save
from onnx_compress.ir.weights import find_weights
from onnx_compress.ir.weights.forms import READERS, affine
from onnx_compress.kernels.affine import quantize, symmetric_scale
from onnx_compress.passes.verify.emitted import emit
from onnx_compress.testing import models
from onnx_compress.verification import verify

PIPELINES = (
    "quant(bits=8)",
    "quant(bits=8, activations='float')",
    "quant(bits=16)",
    "quant(bits=4)",
    "quant(bits=3)",
    "prune(sparsity=0.5),quant(bits=8)",
    "prune(sparsity=0.3)",
)
CLASSES = {"stored": stored.plant, "emitted": emitted.plant, "executed": executed.plant}
_DRAWS = 30  # models that are drawn for one that can be compressed
_SMALL = 256  # numbers of a weight
_LARGEST = 100 << 20  # bytes of a model that faults are planted in


@dataclass(frozen=True)
class Tally:
    """Outcomes by class, and a line for each that went wrong."""

    found: Counter[str]
    missed: list[str]
    planted: Counter[str] = field(default_factory=Counter)


def cases(paths: Sequence[Path], folder: Path, target: str | None = None) -> Iterator[Case]:
    """Each model through each pipeline, and with all products read in each way.

    What a pipeline leaves as it was is left out. What is in the folder is not made again. `target`:
    what passes choose by.
    """
    for path in paths:
        for number, passes in enumerate(PIPELINES):
            out = folder / f"{path.stem}.{number}.onnx"
            if out.exists():  # of an earlier run
                yield Case(path, out, passes)
                continue
            try:
                result = compress(path, passes, out=out, measure=False, verify=False, target=target)
            except CompressError:
                continue
            if result.report.unchanged:
                out.unlink()
            else:
                yield Case(path, out, passes)
        for reader in ("dynamic", "dequantize"):
            out = folder / f"{path.stem}.{reader}.onnx"
            if out.exists() or _read_by(path, reader, out):
                yield Case(path, out, f"all {reader}")


def _read_by(path: Path, reader: str, out: Path) -> bool:
    """Write a model whose products are all read in one way, at 7 bits; whether there are any."""
    model = files.load(path)
    if model.opset() < READERS[reader].minimum_opset:
        return False
    done = 0
    for weight in find_weights(model):
        if weight.dtype != "FLOAT" or weight.size < _SMALL:
            continue
        array = weight.array()
        scale = symmetric_scale(array, weight.channel_axes, 7)
        form = affine(weight, quantize(array, scale, 7), scale, {})
        readers = {use: reader for use in weight.uses if READERS[reader].allows(use, form) is None}
        if readers and len(readers) == len(weight.uses):
            emit(replace(form, readers=readers), weight)
            done += 1
    if done:
        digests.stamp(model)
        save(model, out)
    return bool(done)


def drawn_cases(count: int, folder: Path, target: str | None = None) -> Iterator[Case]:
    """Models that were drawn, each through one of the pipelines in turn."""
    number = 0
    for at, proto in enumerate(drawn(models(subgraphs=True), _DRAWS * count)):
        if number == count:
            return
        path, out = folder / f"drawn{at}.onnx", folder / f"drawn{at}.small.onnx"
        path.write_bytes(proto.SerializeToString())
        passes = PIPELINES[at % len(PIPELINES)]
        try:
            result = compress(path, passes, out=out, measure=False, verify=False, target=target)
        except CompressError:
            continue
        if not result.report.unchanged:
            number += 1
            yield Case(path, out, passes)


def planted(found: Sequence[Case], count: int, seed: int) -> Tally:
    """Plant `count` faults, the classes in turn, over the cases in turn, and look for each."""
    rng = random.Random(seed)
    tally = Tally(Counter(), [])
    left = {name: list(found) for name in CLASSES}
    at = 0
    while sum(tally.planted.values()) < count and any(left.values()):
        name = min((n for n in CLASSES if left[n]), key=lambda n: tally.planted[n])
        case = left[name][at % len(left[name])]
        at += 1
        outcome = CLASSES[name](case, rng)
        if outcome is None:  # nothing to plant there, or nothing that shows
            left[name].remove(case)
            continue
        tally.planted[name] += 1
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
    parser.add_argument("--drawn", type=int, default=40, help="sound models that are drawn")
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
    sound = [*found, *drawn_cases(options.drawn, options.work, options.target)]
    wrong = alarms(sound, options.sound)
    looked = min(len(sound), options.sound)
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
