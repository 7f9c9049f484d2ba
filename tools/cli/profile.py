"""onnx-compress profile --out machine.toml"""

from collections.abc import Sequence
from pathlib import Path

from onnx_compress.cli import progress
from onnx_compress.cli.parsing import Parser
from onnx_compress.ir.graph import staged
from onnx_compress.ir.runtime import silence
from onnx_compress.profiling import profile


def parser() -> Parser:
    """The options."""
    out = Parser(
        "onnx-compress profile",
        "Measure what is fast on this machine. The result is a target: --target FILE.toml.",
    )
    out.add_argument("--out", type=Path, metavar="FILE.toml", help="default: print it")
    out.add_argument(
        "--seconds", type=float, default=0.5, help="for each of 33 products; default: %(default)s"
    )
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    options = parser().parse_args(arguments)
    if options.out is not None:
        staged.check_place(options.out)
    silence()
    with progress.shown(False) as listen:
        text = profile(options.seconds, listen)
    if options.out is None:
        print(text, end="")  # noqa: T201
        return 0
    with staged.placed(options.out) as hidden:
        hidden.write_text(text, encoding="utf-8")
    return 0
