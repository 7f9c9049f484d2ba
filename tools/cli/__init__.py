"""The command line.

    onnx-compress in.onnx out.onnx --passes prune,quant --calib data.npz
    onnx-compress inspect | bench | verify | profile | passes | completion

Exit codes: 0 written; 1 unexpected; 2 wrong command or passes; 3 the model; 4 a pass failed;
5 the calibration data; 6 the result is worse than --max-error or --max-drop, or cannot be judged;
7 it cannot be written; 8 out of memory; 9 verify found something suspect or wrong;
130 interrupted. Errors are two lines on standard error: what is wrong, and what to do.
"""

import io
import os
import sys
from collections.abc import Sequence

from onnx_compress.cli import compress
from onnx_compress.cli.commands import COMMANDS
from onnx_compress.cli.plain import plain
from onnx_compress.ir.errors import CompressError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    for stream in (sys.stdout, sys.stderr):  # names may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except CompressError as error:
        _complain(str(error), error.hint or "see the README, or report it with the model")
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted", "nothing was written")
        return 130
    except MemoryError:
        _complain("out of memory", "run it in pieces with --memory 100MB, or on a larger machine")
        return 8
    except BrokenPipeError:  # as in `onnx-compress inspect model.onnx | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    try:
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]].load().run(arguments[1:])
        return compress.run(arguments)
    finally:
        sys.stdout.flush()  # here, where a reader who has gone is no trouble


def _complain(what: str, hint: str) -> None:
    """Two lines; only the caret under a pipeline takes more."""
    lines = [plain(line) for line in what.split("\n    ")]
    print("error: " + "\n    ".join(lines), file=sys.stderr)  # noqa: T201
    print(f"hint:  {plain(hint)}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
