"""Pipelines as text:  prune(sparsity=0.5),quant(bits=8)

The grammar is that of Python's calls, which Python reads for us: names, numbers, strings, lists,
dictionaries, true and false. A bare word is a string.
"""

import ast
import dataclasses
import threading
from typing import Any

from onnx_compress.ir.errors import OptionError, SyntaxProblem
from onnx_compress.passes.base import Pass
from onnx_compress.passes.registry import find

_WORDS = {"true": True, "false": False, "none": None}
_OPENING = "f("
_PARSER = threading.Lock()  # Python 3.11 counts the depth of its parser for all threads together


def parse(text: str) -> list[Pass]:
    """The passes of a text. Raises SyntaxProblem with a caret, UnknownPassError, OptionError."""
    if not text.strip():
        raise SyntaxProblem("no passes given", "for example: --passes prune,quant")
    try:
        with _PARSER:
            tree = ast.parse(f"{_OPENING}{text})", mode="eval")
    except SyntaxError as error:
        raise _caret(text, (error.offset or 1) - 1, error.msg) from None
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise SyntaxProblem(f"the passes cannot be read: {error}", _EXAMPLE) from None
    call = tree.body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _problem(text, len(_OPENING), "not a list of passes")
    if call.keywords:
        raise _problem(text, call.keywords[0].col_offset, "an option outside a pass")
    return [_pass(text, item) for item in call.args]


_EXAMPLE = "for example: prune(sparsity=0.5),quant(bits=8)"


def _problem(text: str, column: int, what: str) -> SyntaxProblem:
    """A problem at a place of the syntax tree, which counts bytes."""
    before = f"{_OPENING}{text}".encode()[:column].decode(errors="ignore")
    return _caret(text, len(before), what)


def _caret(text: str, column: int, what: str) -> SyntaxProblem:
    at = max(0, min(column - len(_OPENING), len(text)))
    return SyntaxProblem(f"{what}\n    {text}\n    {' ' * at}^", _EXAMPLE)


def _pass(text: str, item: ast.expr) -> Pass:
    if isinstance(item, ast.Name):
        return find(item.id)()
    if not isinstance(item, ast.Call) or not isinstance(item.func, ast.Name):
        raise _problem(text, item.col_offset, "not a pass")
    if item.args:
        raise _problem(text, item.args[0].col_offset, "options are written name=value")
    options: dict[str, Any] = {}
    for keyword in item.keywords:
        if keyword.arg is None:
            raise _problem(text, keyword.col_offset, "options are written name=value")
        if keyword.arg in options:
            raise _problem(text, keyword.col_offset, f"{keyword.arg} is given twice")
        options[keyword.arg] = _value(text, keyword.value)
    return build(item.func.id, options)


def build(name: str, options: dict[str, Any]) -> Pass:
    """The pass of a name, with these options. Raises UnknownPassError, OptionError."""
    kind = find(name)
    known = {field.name for field in dataclasses.fields(kind)}
    strange = [option for option in options if option not in known]
    if strange:
        hint = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise OptionError(f"{kind.name} has no option {strange[0]!r}", hint)
    return kind(**options)


def _value(text: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise _problem(text, node.col_offset, "not a number, a string or a word") from None
