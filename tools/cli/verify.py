"""onnx-compress verify original.onnx compressed.onnx"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_compress import report as reports
from onnx_compress.cli import progress
from onnx_compress.cli.parsing import Parser
from onnx_compress.cli.plain import plain
from onnx_compress.cli.screen import say, show_table, terminal
from onnx_compress.cli.sizes import size
from onnx_compress.ir.graph import staged
from onnx_compress.ir.runtime import silence
from onnx_compress.passes.amount import amount
from onnx_compress.passes.verify.executed import EXACT, SATURATED, UNKNOWN, WITHIN, WRONG
from onnx_compress.passes.verify.finding import Severity
from onnx_compress.passes.verify.levels import Levels
from onnx_compress.passes.verify.whole import WholeModel
from onnx_compress.verification import Verification, verify

_MOST = 12  # findings shown of one kind; the rest is in the JSON report
_WORST = 5  # layers shown
_FUSED = 4  # operators shown


def parser() -> Parser:
    """The options."""
    out = Parser(
        "onnx-compress verify",
        "Does a compressed model compute what it claims to? What is stored, what the runtime "
        "executes, node by node, and what comes out.",
        epilog="exit codes: 0 sound; 6 the error is above --max-error; 9 suspect or wrong; the "
        "rest as those of onnx-compress",
    )
    out.add_argument("original", type=Path, metavar="original.onnx")
    out.add_argument("compressed", type=Path, metavar="compressed.onnx")
    out.add_argument("--data", type=Path, help="real inputs: .npz, .npy, a folder; else drawn")
    out.add_argument("--max-error", type=float, help="the largest error that is fine")
    out.add_argument("--no-layers", action="store_true", help="no table of where the error is from")
    out.add_argument("--seed", type=int, default=0, help="of drawn inputs; default: %(default)s")
    out.add_argument("--threads", type=int, help="default: all processors")
    out.add_argument(
        "--memory", type=size, metavar="SIZE", help="run larger models in pieces; default: 1GB"
    )
    out.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="longest that one run may take"
    )
    out.add_argument(
        "--custom-ops",
        type=Path,
        action="append",
        default=[],
        metavar="LIBRARY",
        help="operators that the models need; it is loaded and run: only one that you trust",
    )
    out.add_argument("--report", type=Path, metavar="FILE.json", help="write all figures")
    out.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    options = parser().parse_args(arguments)
    if options.report is not None:
        staged.check_place(options.report)
    silence()
    with progress.shown(options.quiet) as listen:
        found = verify(
            options.original,
            options.compressed,
            options.data,
            max_error=options.max_error,
            layers=not options.no_layers,
            seed=options.seed,
            threads=options.threads,
            memory=options.memory,
            timeout=options.timeout,
            custom_ops=options.custom_ops,
            on_event=listen,
        )
    if options.report is not None:
        with staged.placed(options.report) as hidden:
            hidden.write_text(reports.text(_named(found, options)), encoding="utf-8")
    if not options.quiet:
        _show(found, options)
    return found.exit_code


def _named(found: Verification, options: argparse.Namespace) -> dict[str, object]:
    return {
        "original": str(options.original),
        "compressed": str(options.compressed),
        **found.as_dict(),
    }


def _show(found: Verification, options: argparse.Namespace) -> None:
    console = terminal()
    say(console, f"{options.original} -> {options.compressed}")
    if found.levels is not None:
        for line in _levels(found.levels):
            say(console, line)
        if found.levels.whole is not None:
            show_table(console, _outputs(found.levels.whole))
        for line in _layers(found.levels):
            say(console, line)
    for severity in sorted(Severity, reverse=True):
        _findings(console, found, severity)
    kind = "drawn inputs" if found.drawn else "inputs"
    say(console, f"verdict  {found.verdict}  (on {found.samples} {kind}, {found.seconds:.1f} s)")


def _levels(levels: Levels) -> Iterator[str]:
    file, kept = levels.file, levels.stored
    sizes = f"{amount(file.bytes[0])} -> {amount(file.bytes[1])}"
    opsets = f"operator set {file.opset[0]}"
    if file.opset[1] != file.opset[0]:
        opsets += f" -> {file.opset[1]}"
    most = sorted(file.fused.items(), key=lambda one: (-one[1], one[0]))
    made = ", ".join(f"{count} {op}" for op, count in most[:_FUSED]) or "nothing"
    yield f"file     {sizes}, {opsets}; the runtime made {made}"
    if levels.costs is not None:
        before, after = levels.costs
        yield (
            f"memory   {amount(before.working_bytes)} -> {amount(after.working_bytes)} (estimate), "
            f"{file.survived} weights decoded at every run"
        )
    digests = "no digests" if not kept.digests else "all as written"
    if kept.changed:
        digests = f"{len(kept.changed)} changed"
    errors = [weight.error for weight in kept.weights]
    far = f", {min(errors):.2g} to {max(errors):.2g} from the original's" if errors else ""
    rest = f"; {len(kept.unmatched)} without a partner" if kept.unmatched else ""
    yield f"stored   {len(kept.weights)} weights, {digests}{far}{rest}"
    if levels.executed is not None:
        low = levels.executed
        counted = ", ".join(
            f"{low.count(result)} {result}"
            for result in (EXACT, WITHIN, SATURATED, WRONG, UNKNOWN)
            if low.count(result)
        )
        yield (
            f"executed {len(low.nodes)} low-bit nodes recomputed: {counted or 'none'}; "
            f"{low.decoded} weights decoded at load"
        )


def _outputs(found: WholeModel) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("output", "run", "error", "relative", "dB", "cosine", "same argmax"):
        right = title not in ("output", "run")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for at in range(len(found.runs[0].outputs)):
        for number, run in enumerate(found.runs):
            one = run.outputs[at]
            decibels = one.quality.sqnr_db
            cells = (
                "" if number else one.name,
                str(run.setting),
                f"{one.quality.error:.4g}",
                f"{one.relative:.4g}",
                "-" if decibels is None else f"{decibels:.1f}",
                "-" if one.cosine is None else f"{one.cosine:.6f}",
                "-" if one.argmax is None else f"{one.argmax:.1%}",
            )
            table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _layers(levels: Levels) -> Iterator[str]:
    found = levels.layers
    if found is None or not found.table:
        return
    whole = f", {found.weights_error:.4g} of all weights" if found.weights_error else ""
    yield f"layers   by what they add to the error ({found.method}{whole})"
    for one in found.table[:_WORST]:
        what = "without it" if found.method == "put back" else "where it is made"
        yield f"         {one.share:6.1%}  {one.weight}  (error {what} {one.error:.4g})"


def _findings(console: Console, found: Verification, severity: Severity) -> None:
    chosen = [finding for finding in found.findings if finding.severity == severity]
    style = {"wrong": "red", "suspect": "red", "warning": "yellow"}.get(str(severity), "dim")
    for finding in chosen[:_MOST]:
        say(console, f"{severity}: {finding}", style)
    if len(chosen) > _MOST:
        say(console, f"and {len(chosen) - _MOST} more like these", style)
