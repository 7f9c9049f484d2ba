"""onnx-compress passes [NAME]"""

from collections.abc import Sequence

from onnx_compress.cli.parsing import Parser
from onnx_compress.cli.screen import say, terminal
from onnx_compress.ir.errors import PipelineError
from onnx_compress.passes import registry
from onnx_compress.passes.describe import Description, describe


def parser() -> Parser:
    """The options."""
    out = Parser("onnx-compress passes", "What passes there are, and their options.")
    out.add_argument("name", nargs="?", help="all about one of them")
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    options = parser().parse_args(arguments)
    names = [options.name] if options.name else registry.names()
    console = terminal()
    for name in names:
        for line in _whole(describe(name)) if options.name else [_short(name)]:
            say(console, line)
    if not options.name:
        say(console, "")
        say(console, "all about one of them: onnx-compress passes NAME")
    return 0


def _short(name: str) -> str:
    try:
        return f"{name:8} {describe(name).summary}"
    except PipelineError as error:
        return f"{name:8} broken: {error}"


def _whole(found: Description) -> list[str]:
    lines = [*found.text.splitlines(), ""]
    lines.append(f"phase    {found.phase}{', exact' if found.exact else ''}")
    for option in found.options:
        lines.append(f"{option.name:8} {option.kind}, default {option.default}")
        lines.append(f"         {option.help}")
    lines.append(f"example  onnx-compress in.onnx out.onnx --passes '{found.example}'")
    return lines
