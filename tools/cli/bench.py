"""onnx-compress bench a.onnx b.onnx, onnx-compress bench kernels"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from onnx_compress.cli import progress
from onnx_compress.cli.parsing import Parser
from onnx_compress.cli.screen import say, terminal
from onnx_compress.comparison import Comparison, compare
from onnx_compress.ir.runtime import silence
from onnx_compress.passes.amount import amount


def parser() -> Parser:
    """The options."""
    out = Parser(
        "onnx-compress bench",
        "Two models against each other: speed (in turn on the same inputs, medians), "
        "time to load, memory.",
        "onnx-compress bench kernels [--json]: the kernels against ONNX Runtime's own, scipy and "
        "numpy, and the limits of this machine.",
    )
    out.add_argument("first", type=Path, metavar="a.onnx")
    out.add_argument("second", type=Path, metavar="b.onnx")
    out.add_argument("--data", type=Path, help="real inputs: .npz, .npy, a folder; else drawn")
    out.add_argument("--threads", type=int, default=1, help="for one run; default: %(default)s")
    out.add_argument(
        "--seconds", type=float, default=5.0, help="for the speed; default: %(default)s"
    )
    out.add_argument("--seed", type=int, default=0, help="of drawn inputs; default: %(default)s")
    out.add_argument("--json", action="store_true", help="everything, as JSON")
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    if list(arguments[:1]) == ["kernels"]:
        from onnx_compress.cli import bench_kernels

        return bench_kernels.run(arguments[1:])
    options = parser().parse_args(arguments)
    silence()
    with progress.shown(options.json) as listen:
        found = compare(
            options.first,
            options.second,
            options.data,
            threads=options.threads,
            seconds=options.seconds,
            seed=options.seed,
            on_event=listen,
        )
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))  # noqa: T201
        return 0
    console = terminal()
    for line in _lines(found, options):
        say(console, line)
    return 0


def _lines(found: Comparison, options: argparse.Namespace) -> list[str]:
    old, new = found.timing.milliseconds
    low, high = found.timing.spread[1]
    a, b = found.footprints
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    rows = [
        f"{options.first} -> {options.second}",
        f"size     {amount(found.bytes[0])} -> {amount(found.bytes[1])}  "
        f"({found.bytes[0] / max(found.bytes[1], 1):.2f}x smaller)",
        f"speed    {found.timing.ratio[1]:.2f}x  "
        f"({old:.2f} -> {new:.2f} ms, {threads}, quartiles {low:.2f} to {high:.2f})",
        f"load     {a.load_seconds * 1e3:.1f} -> {b.load_seconds * 1e3:.1f} ms",
    ]
    for name, before, after in (
        ("memory", a.loaded_bytes, b.loaded_bytes),
        ("peak", a.peak_bytes, b.peak_bytes),
    ):
        if before is not None and after is not None:
            what = "after load" if name == "memory" else "of loading and two runs"
            rows.append(f"{name:8} {amount(before)} -> {amount(after)}  ({what}, measured)")
    if found.quality is None:
        rows.append("error    not compared: the outputs have other names")
    elif found.error == float("inf"):
        rows.append("error    infinite: other shapes, or NaN where the first gives numbers")
    elif found.error is not None:
        kind = "drawn" if found.drawn else "given"
        rows.append(
            f"error    {found.error:.4f}  ({found.quality.sqnr_db:.1f} dB, on {kind} inputs)"
        )
    return rows
