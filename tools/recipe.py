"""Recipes: what decides about a result, as a TOML file.

    recipe = 1
    target = "avx512-vnni"
    exclude = ["head.*"]

    [[passes]]
    name = "quant"
    bits = 8

Everything but `recipe` and `passes` may be left out. `compress(model, **recipe.read(path))`.
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from onnx_compress.ir.errors import OptionError, PipelineError
from onnx_compress.passes import Pass, Pipeline
from onnx_compress.passes.grammar import build
from onnx_compress.result import Summary

FORMAT = 1
_KINDS: dict[str, tuple[type, ...]] = {
    "max_error": (float, int),
    "max_drop": (float, int),
    "target": (str,),
    "seed": (int,),
    "fold": (bool,),
    "exclude": (list,),
}


def read(path: str | Path) -> dict[str, Any]:
    """Arguments for `compress`. Raises PipelineError with what is wrong in the file."""
    hint = "compare it with a recipe that --save-recipe writes"
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise OptionError(error.strerror or "cannot be read", hint, str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OptionError(f"no recipe: {error}", hint, str(path)) from None
    kind = found.pop("recipe", None)
    if type(kind) is not int or kind != FORMAT:
        raise OptionError(f"no recipe of format {FORMAT}", hint, str(path))
    rows = found.pop("passes", None)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise OptionError("it has no [[passes]]", hint, str(path))
    for key, value in found.items():
        if key not in _KINDS:
            raise OptionError(f"unknown: {key!r}", f"known are {', '.join(_KINDS)}", str(path))
        if type(value) not in _KINDS[key] or value == "" or not _names(value):
            kind = _KINDS[key][0].__name__
            raise OptionError(f"{key} is {value!r}, not of type {kind}", hint, str(path))
    try:
        pipeline = Pipeline(tuple(_pass(row) for row in rows))
        numbers: dict[str, Any] = {
            key: float(found[key]) for key in ("max_error", "max_drop") if key in found
        }
        return {**found, **numbers, "passes": pipeline}
    except OverflowError as error:
        raise OptionError(f"a number is too large: {error}", hint, str(path)) from None
    except PipelineError as error:
        raise type(error)(str(error), error.hint, str(path)) from None


def written(report: Summary, options: dict[str, Any]) -> str:
    """The text of a recipe that repeats a run: its passes with the numbers that were taken.

    Passes that changed nothing are left out, unless none did.
    `options`: further arguments of that run, those that are None left out.
    """
    import tomli_w

    stages = [stage for stage in report.stages if stage.setting is not None and not stage.failure]
    effective = [stage for stage in stages if stage.report.modified] or stages
    taken = [stage.setting for stage in effective if stage.setting is not None]
    unnamed = [str(item) for item in taken if not _is_found(item)]
    if unnamed:
        hint = "only passes with an entry point can be named in a file"
        raise OptionError(f"{unnamed[0]} cannot be written to a recipe", hint)
    given = {key: value for key, value in options.items() if value is not None}
    return tomli_w.dumps({"recipe": FORMAT, **given, "passes": [_row(item) for item in taken]})


def _names(value: Any) -> bool:
    """Whether a list is one of names; anything else is fine."""
    return not isinstance(value, list) or all(isinstance(x, str) and x for x in value)


def _pass(row: dict[str, Any]) -> Pass:
    options = dict(row)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise OptionError("a pass without a name", 'write name = "quant"')
    return build(name, options)


def _is_found(item: Pass) -> bool:
    try:
        return _pass(_row(item)) == item
    except PipelineError:
        return False


def _row(item: Pass) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    fields = {field.name: field.default for field in dataclasses.fields(item)}
    return {
        "name": item.name,
        **{key: value for key, value in values.items() if value != fields[key]},
    }
