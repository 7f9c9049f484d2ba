"""Models with channels taken out: what the choice and the refitting are worth, and the speed.

    python -m onnx_compress.bench.pruned MODEL.onnx FIT JUDGE --pass "prune(macs=0.5)"
    ... --ways ours,cut,magnitude --before Softmax --batch 64 --save FOLDER

FIT and JUDGE: data as for --calib. `ours`: as the pass does it; `cut`: the same channels, nothing
refitted; `magnitude`, `random`: other channels, nothing refitted; `magnitude+`, `random+`: these,
refitted. For sparsity: `ours` and `magnitude`. dB and cosine, of all samples and of the worst one,
of the worst output; time of one run, interleaved, one thread. The model is cleaned first.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress import calibration
from onnx_compress.ir.graph import Model, clone, files
from onnx_compress.ir.graph.build import add_exit
from onnx_compress.ir.runtime import Feed, Session, open_session, silence
from onnx_compress.ir.runtime.timing import compare_speed
from onnx_compress.passes import Context, Pass, Pipeline
from onnx_compress.passes import target as targets
from onnx_compress.passes.clean import Fold
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.prune.structure import Request, prune_structure

WAYS: dict[str, tuple[str | None, bool | None]] = {
    "ours": (None, None),
    "cut": (None, False),
    "magnitude": ("magnitude", False),
    "magnitude+": ("magnitude", None),
    "random": ("random", False),
    "random+": ("random", None),
}


def pruned(model: Model, passes: Sequence[Pass], way: str, context: Context) -> str:
    """Change the model; what was done, in a line."""
    score, refit = WAYS[way]
    lines = []
    for each in passes:
        if isinstance(each, Prune) and way != "ours":
            share = each.channels if each.channels is not None else each.macs
            what = "macs" if each.channels is None else "channels"
            request = Request(share or 0.0, what, score=score, refit=refit)
            report = prune_structure(model, context, request)
        else:
            report = each.run(model, context)
        lines.append(report.summary)
    return "; ".join(lines)


def outputs(model: Model, feeds: Sequence[Feed], before: str | None) -> list[list[Any]]:
    """Of each sample; the input of the last operator `before` in place of them, if given."""
    if before:
        model = clone(model)
        value = [node for node in model.graph.sorted() if node.op == before][-1].inputs[0]
        if value is not None:
            model.graph.outputs = [(value, value.info)]
            add_exit(value, model.graph)
    session = open_session(model)
    return [session.run(feed) for feed in feeds]


def agreement(one: list[list[Any]], other: list[list[Any]]) -> tuple[float, float, float]:
    """dB, cosine of all samples, cosine of the worst sample: of the worst float output."""
    found = []
    for at in range(len(one[0])):
        pairs = [
            (np.asarray(a[at], np.float64).ravel(), np.asarray(b[at], np.float64).ravel())
            for a, b in zip(one, other, strict=True)
            if np.asarray(a[at]).dtype.kind == "f"
        ]
        if pairs:
            a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
            db = 10 * np.log10(float(a @ a) / max(float((a - b) @ (a - b)), 1e-30))
            found.append((db, _cosine(a, b), min(_cosine(*pair) for pair in pairs)))
    worst = np.array(found).min(0).tolist()
    return worst[0], worst[1], worst[2]


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30)


def batched(feeds: Sequence[Feed], size: int) -> list[Feed]:
    """One feed of so many samples, repeated as needed; the feeds as they are for 0."""
    if not size:
        return list(feeds)
    rows = [feeds[at % len(feeds)] for at in range(size)]
    return [{name: np.concatenate([row[name] for row in rows]) for name in feeds[0]}]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("fit", type=Path)
    parser.add_argument("judge", type=Path)
    parser.add_argument("--pass", dest="passes", default="prune(channels=0.3)")
    parser.add_argument("--ways", default="ours", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--before", metavar="OPERATOR", help="judge what goes into the last one")
    parser.add_argument("--batch", type=int, default=0, help="samples in a timed run")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing; 0: none")
    parser.add_argument("--exclude", nargs="*", default=(), help="weights that stay")
    parser.add_argument("--target", default="", help="by default this machine's")
    parser.add_argument("--save", type=Path, help="folder for the models")
    options = parser.parse_args()
    silence()
    model = files.load(options.model)
    ports = open_session(model).inputs
    fit, judge = (calibration.read(path, ports).feeds for path in (options.fit, options.judge))
    target = targets.load(options.target) if options.target else targets.host()
    context = Context(target, fit[0], fit, exclude=tuple(options.exclude))
    size = files.file_size(model)
    Fold().run(model, replace(context, exclude=()))
    expected = outputs(model, judge, options.before)
    print("| model | way | smaller | speed | dB | cosine | worst cosine | seconds | done |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for way in options.ways.split(","):
        changed = clone(model)
        begun = time.perf_counter()
        done = pruned(changed, Pipeline.parse(options.passes).passes, way, context)
        took = time.perf_counter() - begun
        db, cosine, worst = agreement(expected, outputs(changed, judge, options.before))
        speed = "-"
        if options.seconds:
            sessions = [Session(each) for each in (model, changed)]
            timing = compare_speed(sessions, batched(judge, options.batch), options.seconds)
            speed = f"{timing.ratio[1]:.2f}x"
        smaller = size / files.file_size(changed)
        if options.save:
            name = f"{options.model.stem}_{way}.onnx"
            (options.save / name).write_bytes(files.to_bytes(changed))
        print(
            f"| {options.model.stem} | {way} | {smaller:.2f}x | {speed} | {db:.1f} | {cosine:.3f} "
            f"| {worst:.3f} | {took:.0f} | {done} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
