"""The command:  onnx-compress in.onnx out.onnx --passes prune,quant --calib data.npz

Exit codes: 0 written; 1 unexpected; 2 wrong command or passes; 3 the model; 4 a pass failed;
5 the calibration data; 6 the result is worse than --max-error, or cannot be judged; 7 it cannot be
written; 8 out of memory; 130 interrupted. Errors are two lines on standard error: what is wrong,
and what to do.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from onnx_compress.compressor import DEFAULT_MAX_ERROR, DEFAULT_PASSES, compress
from onnx_compress.ir.errors import CompressError, OutputError
from onnx_compress.ir.graph import staged
from onnx_compress.passes import Event
from onnx_compress.plain import plain
from onnx_compress.result import Result


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = argparse.ArgumentParser(
        prog="onnx-compress",
        description="Make an ONNX model smaller and faster, and check the result.",
        epilog="exit codes: " + (__doc__ or "").partition("Exit codes: ")[2].replace("\n", " "),
    )
    out.add_argument("input", type=Path, help="the model")
    out.add_argument("output", type=Path, help="where to write the result")
    out.add_argument(
        "--passes", default=DEFAULT_PASSES, help="what to do, in order; default: %(default)s"
    )
    out.add_argument("--calib", type=Path, metavar="DATA", help="real inputs: .npz or .npy")
    out.add_argument(
        "--max-error",
        type=float,
        help=f"write nothing if the error is larger; default: {DEFAULT_MAX_ERROR} for passes "
        "without numbers, and a warning for the rest",
    )
    out.add_argument("--target", help="what is fast where: a shipped target or a .toml file")
    out.add_argument("--no-fold", action="store_true", help="no exact clean-up first")
    out.add_argument("--keep-going", action="store_true", help="leave out passes that fail")
    out.add_argument("--seed", type=int, default=0, help="of drawn inputs; default: %(default)s")
    out.add_argument("--threads", type=int, help="for running models; default: all processors")
    out.add_argument(
        "--memory",
        type=_size,
        metavar="SIZE",
        help="run a model with more weights than this in pieces: 500MB; default: 1GB",
    )
    out.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="longest that one run of the model may take; default: 600",
    )
    out.add_argument(
        "--custom-ops",
        type=Path,
        action="append",
        default=[],
        metavar="LIBRARY",
        help="operators that the model needs; it is loaded and run: only one that you trust",
    )
    out.add_argument("--report", type=Path, metavar="FILE.json", help="write all figures")
    out.add_argument("--quiet", action="store_true", help="print nothing but errors")
    out.add_argument("--version", action="version", version=f"%(prog)s {version('onnx-compress')}")
    return out


def _size(text: str) -> int:
    """Bytes; argparse shows this function's name in its error."""
    number = text.upper().removesuffix("B")
    power = {"K": 10, "M": 20, "G": 30}.get(number[-1:], 0)
    size = float(number[:-1] if power else number) * 2**power
    if not size < 2**63:
        raise ValueError("no machine has that much")
    return int(size)


_size.__name__ = "size"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    for stream in (sys.stdout, sys.stderr):  # names may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except CompressError as error:
        _complain(str(error), error.hint or "see the README, or report it with the model")
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted", "nothing was written")
        return 130
    except MemoryError:
        _complain("out of memory", "run it in pieces with --memory 100MB, or on a larger machine")
        return 8


def _complain(what: str, hint: str) -> None:
    """Two lines; only the caret under a pipeline takes more."""
    lines = [plain(line) for line in what.split("\n    ")]
    print("error: " + "\n    ".join(lines), file=sys.stderr)  # noqa: T201
    print(f"hint:  {plain(hint)}", file=sys.stderr)  # noqa: T201


def _run(options: argparse.Namespace) -> int:
    quiet = options.quiet
    with _progress(quiet) as listen:
        result = compress(
            options.input,
            options.passes,
            options.calib,
            options.output,
            options.max_error if options.max_error is not None else DEFAULT_MAX_ERROR,
            strict=options.max_error is not None,
            target=options.target,
            fold=not options.no_fold,
            seed=options.seed,
            threads=options.threads,
            keep_going=options.keep_going,
            memory=options.memory,
            timeout=options.timeout,
            custom_ops=options.custom_ops,
            on_event=listen,
        )
    if options.report:
        _write_report(result, options.report)
    if not quiet:
        from onnx_compress.screen import show

        show(result.report, f"{options.input} -> {options.output}")
    return 0


class _Listener:
    def __init__(self, status: "object | None") -> None:
        self.status = status

    def __call__(self, event: Event) -> None:
        if self.status is not None and event.kind == "stage":
            self.status.update(event.text)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[_Listener]:
    """A line on a terminal that says what is going on; nothing in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield _Listener(None)
        return
    from rich.console import Console

    with Console(stderr=True).status("loading") as status:
        yield _Listener(status)


def _write_report(result: Result, path: Path) -> None:
    text = json.dumps(result.report.as_dict(), indent=1, default=str)
    try:
        with staged.placed(path) as hidden:
            hidden.write_text(text + "\n", encoding="utf-8")
    except OutputError as error:
        hint = "the model was written; the report was not"
        raise OutputError(error.message, hint, str(path)) from None


if __name__ == "__main__":
    sys.exit(main())
