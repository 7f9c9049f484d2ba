"""onnx-compress in.onnx out.onnx: the main command."""

import argparse
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnx_compress import recipe
from onnx_compress import report as reports
from onnx_compress.cli import progress
from onnx_compress.cli.commands import COMMANDS
from onnx_compress.cli.parsing import Parser
from onnx_compress.cli.sizes import size
from onnx_compress.compressor import DEFAULT_PASSES, compress, plan
from onnx_compress.ir.errors import OptionError, OutputError, QualityError
from onnx_compress.ir.graph import staged
from onnx_compress.ir.runtime import silence
from onnx_compress.result import Summary
from onnx_compress.run import DEFAULT_MAX_ERROR

_CODES = """exit codes: 0 written, 1 unexpected, 2 wrong command or passes, 3 the model, 4 a pass
failed, 5 the data, 6 worse than allowed or impossible to judge, 7 cannot be written, 8 out of
memory, 130 interrupted"""


def parser() -> Parser:
    """The options."""
    others = "; ".join(f"{name}: {entry.help}" for name, entry in COMMANDS.items())
    out = Parser(
        prog="onnx-compress",
        description="Make an ONNX model smaller and faster, and check the result.",
        epilog=f"other commands (onnx-compress COMMAND --help): {others}. {_CODES}",
    )
    out.add_argument("input", type=Path, help="the model")
    out.add_argument("output", type=Path, nargs="?", help="where to write the result")
    what = out.add_argument_group("what to do")
    what.add_argument(
        "--passes",
        metavar="PASSES",
        help=f"in order, or @recipe.toml; default: {DEFAULT_PASSES}. See: onnx-compress passes",
    )
    what.add_argument(
        "--calib", type=Path, metavar="DATA", help="real inputs: .npz, .npy, a folder"
    )
    what.add_argument("--target", help="what is fast where: a shipped target or a .toml file")
    what.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NAME",
        help="a weight or node to leave alone; may hold * and ?; may be repeated",
    )
    what.add_argument(
        "--exclude-from",
        type=Path,
        metavar="REPORT.json",
        help="leave alone what an earlier report, made with --layers, found worst",
    )
    what.add_argument("--no-fold", action="store_true", help="no exact clean-up first")
    what.add_argument("--seed", type=int, help="of drawn inputs; default: 0")
    how = out.add_argument_group("how good it must be")
    how.add_argument(
        "--max-error",
        type=float,
        help=f"write nothing if the error is larger; default: {DEFAULT_MAX_ERROR} for passes "
        "without numbers, and a warning for the rest",
    )
    how.add_argument(
        "--max-drop",
        type=float,
        help="write nothing if the accuracy (on __labels__) falls by more, as in 0.01; the error "
        "then decides only if --max-error is given, too",
    )
    how.add_argument("--keep-going", action="store_true", help="leave out passes that fail")
    how.add_argument("--no-verify", action="store_true", help="only load the result, do not run it")
    run = out.add_argument_group("running models")
    run.add_argument("--threads", type=int, help="default: all processors")
    run.add_argument(
        "--memory",
        type=size,
        metavar="SIZE",
        help="run a model with more weights than this in pieces: 500MB; default: 1GB",
    )
    run.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="longest that one run may take; default: 600",
    )
    run.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keep what is found out about the data there, and find it again in later runs",
    )
    run.add_argument(
        "--custom-ops",
        type=Path,
        action="append",
        default=[],
        metavar="LIBRARY",
        help="operators that the model needs; it is loaded and run: only one that you trust",
    )
    shown = out.add_argument_group("what is shown and written")
    shown.add_argument(
        "--dry-run", action="store_true", help="plan and estimate; no model is written"
    )
    shown.add_argument("--layers", action="store_true", help="try each weight alone: which is it?")
    shown.add_argument("--report", type=Path, metavar="FILE.json", help="write all figures")
    shown.add_argument(
        "--save-recipe", type=Path, metavar="FILE.toml", help="write what was done, to repeat it"
    )
    shown.add_argument("--quiet", action="store_true", help="print nothing but errors")
    shown.add_argument(
        "--version", action="version", version=f"%(prog)s {version('onnx-compress')}"
    )
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    options = parser().parse_intermixed_args(arguments)  # options between input and output
    if options.output is None and not options.dry_run:
        raise OptionError("no output given", "onnx-compress in.onnx out.onnx, or --dry-run")
    asked = _asked(options)
    _check_places(options)
    silence()
    with progress.shown(options.quiet) as listen:
        both = asked | {
            "calibration": options.calib,
            "threads": options.threads,
            "keep_going": options.keep_going,
            "memory": options.memory,
            "timeout": options.timeout,
            "custom_ops": options.custom_ops,
            "cache": options.cache,
            "on_event": listen,
        }
        if options.dry_run:
            report = plan(options.input, **both)
        else:
            report = _compressed(options, asked, both)
    _write(options, report, asked)
    if not options.quiet:
        from onnx_compress.cli.screen import show

        show(report, f"{options.input} -> {options.output or '(dry run)'}")
    return 0


def _check_places(options: argparse.Namespace) -> None:
    """Raise OutputError where a report would take the place of something else, or of nothing."""
    read = [options.input, options.calib, *options.custom_ops]
    if options.passes is not None and options.passes.startswith("@"):
        read.append(Path(options.passes[1:]))
    taken = {_place(path) for path in (*read, options.output) if path is not None}
    for place in (options.report, options.save_recipe):
        if place is None:
            continue
        staged.check_place(place)
        if _place(place) in taken:
            hint = "choose another name"
            raise OutputError("it is used for something else in this run", hint, str(place))
        taken.add(_place(place))


def _place(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # what is wrong with it is said where it is read or written
        return str(path)


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What decides about the result: a recipe's, and over that what the command says."""
    text = DEFAULT_PASSES if options.passes is None else options.passes
    found: dict[str, Any] = {"passes": text, "exclude": []}
    if text.startswith("@"):
        found |= recipe.read(text[1:])
    if options.no_fold:
        found["fold"] = False
    elif "fold" not in found:
        found["fold"] = True
    for key in ("max_error", "max_drop", "target", "seed"):
        if getattr(options, key) is not None:
            found[key] = getattr(options, key)
    found["exclude"] = [*found["exclude"], *options.exclude]
    if options.exclude_from is not None:
        found["exclude"] += reports.excluded(options.exclude_from)
    found["exclude"] = list(dict.fromkeys(found["exclude"]))
    return found


def _compressed(
    options: argparse.Namespace, asked: dict[str, Any], arguments: dict[str, Any]
) -> Summary:
    try:
        return compress(
            options.input,
            out=options.output,
            strict="max_error" in asked or "max_drop" in asked,
            verify=not options.no_verify,
            layers=options.layers,
            **arguments,
        ).report
    except QualityError as error:  # what is known of a result that was refused may help
        if error.report is not None and options.report:
            options.save_recipe = None
            _write(options, error.report, asked)
        raise


def _write(options: argparse.Namespace, report: Summary, asked: dict[str, Any]) -> None:
    done = "the model was written"
    if options.dry_run or report.refused:
        done = "nothing else was written either"
    files: dict[Path, str] = {}
    if options.report:
        output = None if options.dry_run else str(options.output)
        paths = {"input": str(options.input), "output": output}
        files[options.report] = reports.text(paths | reports.as_dict(report))
    if options.save_recipe:
        given = {key: value for key, value in asked.items() if key != "passes"}
        given["target"] = asked.get("target", report.target)
        files[options.save_recipe] = recipe.written(report, given)
    for path, content in files.items():
        try:
            with staged.placed(path) as hidden:
                hidden.write_text(content, encoding="utf-8")
        except OutputError as error:
            hint = f"{done}; this file was not"
            raise OutputError(error.message, hint, str(path)) from None
