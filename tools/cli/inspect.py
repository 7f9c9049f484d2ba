"""onnx-compress inspect model.onnx"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_compress.cli.parsing import Parser
from onnx_compress.cli.plain import plain
from onnx_compress.cli.screen import say, show_table, terminal
from onnx_compress.inspection import DEFAULT_PASSES, Inspection, Row, inspect
from onnx_compress.ir.runtime import silence
from onnx_compress.passes.amount import amount

_OPERATORS, _NAMES = 8, 4  # shown
_COLUMNS = ("weight", "read by", "shape", "type", "kept", "size", "share", "MACs")


def parser() -> Parser:
    """The options."""
    out = Parser("onnx-compress inspect", "What is in a model, and what could be compressed.")
    out.add_argument("model", type=Path)
    out.add_argument(
        "--passes", default=DEFAULT_PASSES, help="what to try, on a copy; default: %(default)s"
    )
    out.add_argument(
        "--calib", type=Path, metavar="DATA", help="real inputs, for the shapes of a run"
    )
    out.add_argument("--target", help="what is fast where: a shipped target or a .toml file")
    out.add_argument("--largest", type=int, metavar="N", help="only the N largest weights")
    out.add_argument(
        "--groups", action="store_true", help="channels that could go, and what that saves"
    )
    out.add_argument("--json", action="store_true", help="everything, as JSON")
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    options = parser().parse_args(arguments)
    silence()
    found = inspect(
        options.model, options.passes, options.calib, target=options.target, groups=options.groups
    )
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))  # noqa: T201
        return 0
    _show(found, options)
    return 0


def _show(found: Inspection, options: argparse.Namespace) -> None:
    console = terminal()
    rows = list(found.rows)
    if options.largest is not None:
        rows = sorted(rows, key=lambda row: -row.bytes)[: max(options.largest, 0)]
    say(console, f"{options.model}: operator set {found.opset}, by {found.producer or '?'}")
    for title, ports in (("inputs", found.inputs), ("outputs", found.outputs)):
        for at, port in enumerate(ports):
            say(console, f"{title if not at else '':8} {port}")
    show_table(console, _table(rows, found.passes))
    if len(rows) < len(found.rows):
        say(console, f"and {len(found.rows) - len(rows)} smaller ones")
    if options.groups:
        _show_groups(console, found)
    for line in _totals(found):
        say(console, line)


def _show_groups(console: Console, found: Inspection) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("channels of", "number", "size", "MACs", "weights that they are part of"):
        right = title in ("number", "size", "MACs")
        table.add_column(Text(title), justify="right" if right else "left", overflow="fold")
    for row in found.groups:
        wide = f" of {row.width}" if row.width > 1 else ""
        cells = (
            row.name,
            f"{row.channels}{wide}",
            amount(row.bytes),
            _count(row.macs),
            _some(row.constants),
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    show_table(console, table)
    for reason, count in found.stuck.items():
        say(console, f"stay     {count} positions: {reason}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _table(rows: list[Row], passes: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in (*_COLUMNS, f"with {passes}"):
        right = title in ("size", "share", "MACs")
        table.add_column(Text(plain(title)), justify="right" if right else "left", overflow="fold")
    for row in rows:
        cells = (
            row.name,
            ", ".join(row.operators) or "pieces",
            "x".join(map(str, row.shape)),
            row.dtype,
            row.kept,
            amount(row.bytes),
            f"{row.share:.1%}",
            "?" if row.macs is None else _count(row.macs),
            row.becomes or f"left alone: {row.why}",
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _totals(found: Inspection) -> list[str]:
    cost = found.cost
    most = list(found.operators.items())
    nodes = ", ".join(f"{count} {op}" for op, count in most[:_OPERATORS])
    more = f" and {len(most) - _OPERATORS} more kinds" if len(most) > _OPERATORS else ""
    lines = [
        f"nodes    {sum(found.operators.values())}: {nodes}{more}",
        f"weights  {len(found.rows)}, {amount(sum(row.bytes for row in found.rows))}; "
        f"other constants {found.others}, {amount(found.other_bytes)}",
        f"total    {amount(cost.file_bytes)}, {cost.parameters:,} numbers, "
        f"{_count(cost.macs)} multiply-accumulates a run",
        f"memory   {amount(cost.working_bytes)}  (estimate: weights {amount(cost.loaded_bytes)} "
        f"after load, activations {amount(cost.activation_bytes)})",
    ]
    lines += [f"no weight: {name}: {reason}" for name, reason in found.left.items()]
    if found.unknown:
        lines.append(f"warning: not run, so passes were not tried: {found.unknown}")
    elif cost.unknown:
        lines.append(f"warning: {cost.unknown} shapes are unknown and count as nothing")
    return lines


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}T"
