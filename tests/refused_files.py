"""What the command says of a file that it refuses."""

import contextlib
import io
import re
from pathlib import Path

from onnx import ModelProto

from onnx_compress.cli import main
from onnx_compress.ir.graph.wire import encoded

from graphs import product

Content = bytes | ModelProto | None


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too, with its bytes."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def said(folder: Path, content: Content, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of the command on this file."""
    source = folder / "in.onnx"
    if content is not None:
        source.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    before = listing(folder)
    errors, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
        code = main([str(source), str(folder / "out.onnx"), *arguments])
    if code:
        assert printed.getvalue() == ""
        assert listing(folder) == before
    return code, errors.getvalue().splitlines()


def refused(folder: Path, content: Content, *words: str, arguments: tuple[str, ...] = ()) -> str:
    """The hint; the command must end with the code for models and say these expressions."""
    code, lines = said(folder, content, *arguments)
    assert code == 3, lines
    error, hint = lines
    assert re.fullmatch(r"error: \S.*", error)
    assert re.fullmatch(r"hint:  \S.*", hint)
    for word in words:
        assert re.search(word, error, re.IGNORECASE)
    assert "README" not in hint  # that is what is said where nobody thought of a hint
    assert "--calib" not in hint  # no data can help
    return hint


# ------------------------------------------------------------------------------------- cut short


def changed(change) -> ModelProto:
    model = product()
    change(model)
    return model


# --------------------------------------------------------------------------------- broken graphs


def field(number: int, content: bytes) -> bytes:
    return encoded(number << 3 | 2) + encoded(len(content)) + content
