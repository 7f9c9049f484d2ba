"""onnx-compress bench kernels"""

import json
from collections.abc import Sequence

from rich.table import Table

from onnx_compress.cli import progress
from onnx_compress.cli.parsing import Parser
from onnx_compress.cli.screen import say, show_table, terminal
from onnx_compress.ir.runtime import silence
from onnx_compress.kernel_cases import OURS
from onnx_compress.kernel_speed import ROWS, THREADS, KernelSpeed, Row, kernel_speed


def parser() -> Parser:
    """The options."""
    out = Parser(
        "onnx-compress bench kernels",
        "The kernels that results are checked with, against ONNX Runtime's own, scipy, numpy and "
        "the limits of this machine: in turn on the same operands, medians.",
    )
    out.add_argument("--threads", type=int, nargs="+", default=list(THREADS), help="default: 1 2")
    out.add_argument(
        "--rows", type=int, nargs="+", default=list(ROWS), help="of activations; default: 1 16 128"
    )
    out.add_argument(
        "--seconds", type=float, default=0.5, help="for each kernel; default: %(default)s"
    )
    out.add_argument("--json", action="store_true", help="everything, as JSON")
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    options = parser().parse_args(arguments)
    silence()
    with progress.shown(options.json) as listen:
        found = kernel_speed(
            options.seconds, rows=options.rows, threads=options.threads, on_event=listen
        )
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))  # noqa: T201
        return 0
    console = terminal()
    for line in _head(found):
        say(console, line)
    show_table(console, _table(found.rows))
    return 0


def _head(found: KernelSpeed) -> list[str]:
    made = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    lines = [f"path     {found.path}  ({found.processor}; {made})"]
    for limit in found.limits:
        lines.append(
            f"limits   copy {limit.copy:.1f} GB/s, read {limit.read:.1f} GB/s, sgemm "
            f"{limit.sgemm:.0f} GFLOP/s  ({limit.threads} thread{'s' if limit.threads > 1 else ''})"
        )
    return lines


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("kernel", "K x N", "M", "threads", "ms", "times faster than"):
        table.add_column(name, justify="left" if name[0] in "kt" else "right", overflow="fold")
    for row in rows:
        shape = f"{row.columns}x{row.rows}" if row.m else "-"
        others = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row.ratios.items())
        table.add_row(
            row.kernel,
            shape,
            str(row.m or "-"),
            str(row.threads),
            f"{row.milliseconds[OURS]:.3f}",
            others,
        )
    return table
