"""What the command line prints: one screen at the end, readable in a pipe."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_compress.cli.plain import plain
from onnx_compress.passes import Entry, Stage
from onnx_compress.passes.amount import amount
from onnx_compress.result import Score, Summary

_WIDTH = 1000  # columns, where there is no terminal to ask: nothing is wrapped in a pipe
_SETTING = 48  # characters of a setting in the table
_WORST = 5  # layers shown
_MOST = 8  # reasons shown; the rest is in the JSON report


def show(report: Summary, title: str) -> None:
    """Print table, reasons and verdict on standard output."""
    console = terminal()
    say(console, title)
    show_table(console, _table(report))
    for stage in report.stages:
        if _shown(stage.name) != stage.name:
            say(console, f"setting  {stage.name}")
        for note in stage.report.notes:
            say(console, f"note: {note}", "dim")
    _reasons(report, console)
    for layer in report.layers[:_WORST]:
        alone = f"error {layer.error:.4f} ({layer.sqnr_db:.1f} dB)"
        say(console, f"layer    {layer.weight} alone: {alone}")
    for line in verdict(report):
        say(console, line)
    for warning in report.warnings:
        say(console, f"warning: {warning}", "yellow")


class _Output(Console):
    """One that leaves a reader who has gone to `main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def terminal() -> Console:
    """Standard output; of a fixed width where it is no terminal."""
    width = None if sys.stdout.isatty() else _WIDTH
    return _Output(width=width, markup=False, emoji=False, highlight=False)


def say(console: Console, line: str, style: str | None = None) -> None:
    """One line, however long: a pipe wants it whole, and a terminal wraps it."""
    console.print(plain(line), style=style, soft_wrap=True)


def show_table(console: Console, table: Table) -> None:
    """A table; in a pipe without the blanks that fill its last column."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def _table(report: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, right in (
        ("pass", False),
        ("what changed", False),
        ("size", True),
        ("ratio", True),
        ("error", True),
        ("seconds", True),
    ):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for stage in report.stages:
        table.add_row(*(Text(plain(cell)) for cell in _row(stage, report.bytes_before)))
    return table


def _shown(name: str) -> str:
    """As much of a setting as a table has room for; the whole is said below it."""
    return name if len(name) <= _SETTING else f"{name[: _SETTING - 3]}..."


def _row(stage: Stage, original: int) -> list[str]:
    error = "-" if stage.error is None else "exact"
    if stage.error:
        error = f"{stage.error:.4f}" if stage.error >= 1e-4 else f"{stage.error:.0e}"
    return [
        _shown(stage.name),
        stage.failure or stage.report.summary,
        amount(stage.bytes_after),
        f"{original / max(stage.bytes_after, 1):.2f}x",
        error,
        f"{stage.seconds:.1f}",
    ]


def _reasons(report: Summary, console: Console) -> None:
    for stage in report.stages:
        groups: dict[str, list[str]] = {}
        for entry in stage.report.skipped:
            groups.setdefault(_kind(entry), []).append(entry.subject)
        for reason, names in list(groups.items())[:_MOST]:
            shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if names[2:] else "")
            line = f"left alone by {stage.name.partition('(')[0]}: {shown}: {reason}"
            say(console, line, "dim")
        if len(groups) > _MOST:
            say(console, f"and {len(groups) - _MOST} more reasons", "dim")


def _kind(entry: Entry) -> str:
    """Reasons that differ in numbers alone are one."""
    return entry.text.partition(":")[0] if entry.text.startswith("too small") else entry.text


def verdict(report: Summary) -> list[str]:
    """The last lines: size, error, speed, memory."""
    before, after = report.cost_before, report.cost_after
    sizes = f"{amount(report.bytes_before)} -> {amount(report.bytes_after)}"
    inputs = f"{report.judged} {'drawn' if report.drawn else 'held-out'} inputs"
    lines = []
    if report.unchanged:
        copy = "it would be" if report.planned else "the output is"
        lines.append(f"verdict: unchanged, {copy} a copy of the input")
    lines.append(f"size     {sizes}  ({report.ratio:.2f}x smaller)")
    if report.metric is not None:
        lines.append(_metric(report.metric))
    found = "not judged"
    if report.error is not None:
        decibels = report.quality.sqnr_db if report.quality else 0.0
        found = f"{report.error:.4f}  ({decibels:.1f} dB, on {inputs})"
    lines.append(f"error    {found}")
    if report.planned:
        lines.append(
            f"speed    {report.estimated_speed:.2f}x  (estimate for {report.target}, by products)"
        )
    if report.timing is not None:
        old, new = report.timing.milliseconds
        low, high = report.timing.spread[1]
        lines.append(
            f"speed    {report.timing.ratio[1]:.2f}x  "
            f"({old:.2f} -> {new:.2f} ms, 1 thread, quartiles {low:.2f} to {high:.2f})"
        )
    lines.append(
        f"memory   {amount(before.working_bytes)} -> {amount(after.working_bytes)}  "
        f"(estimate: weights {amount(after.loaded_bytes)} after load, "
        f"activations {amount(after.activation_bytes)})"
    )
    return lines


def _metric(metric: Score) -> str:
    if metric.name != "accuracy":
        return f"{metric.name:8} {metric.before:.4g} -> {metric.after:.4g}"
    shares = f"{metric.before:.2%} -> {metric.after:.2%}"
    return f"accuracy {shares}  (top-1 on {metric.samples} held-out samples)"
