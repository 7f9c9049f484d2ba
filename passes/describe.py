"""What a pass says of itself: the text of its module, its options, an example."""

import dataclasses
import inspect
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any

from onnx_compress.passes.base import Pass
from onnx_compress.passes.registry import find


@dataclass(frozen=True)
class Option:
    """One option. `kind`: its type, and its bounds or choices, in words."""

    name: str
    kind: str
    default: str
    help: str


@dataclass(frozen=True)
class Description:
    """A pass. `text`: the first block is the rewrite that it does."""

    name: str
    summary: str
    text: str
    phase: str
    exact: bool
    options: tuple[Option, ...]
    example: str


def describe(name: str) -> Description:
    """All that is known of a pass. Raises PipelineError for one that cannot be loaded."""
    kind = find(name)
    text = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or kind.__doc__ or "")
    summary = text.partition("\n")[0].removeprefix(f"{kind.name}:").strip()
    hints = typing.get_type_hints(kind)
    options = tuple(_option(entry, hints[entry.name]) for entry in dataclasses.fields(kind))
    return Description(
        name=name,
        summary=summary.rstrip("."),
        text=text,
        phase=kind().phase.name.lower(),
        exact=kind.exact,
        options=options,
        example=_example(kind),
    )


def _option(entry: "dataclasses.Field[Any]", hint: Any) -> Option:
    rules = entry.metadata
    kind = " or ".join(_names(hint))
    if rules.get("choices"):
        kind = " or ".join(str(choice) for choice in rules["choices"])
    elif rules.get("low") is not None or rules.get("high") is not None:
        kind += f" from {rules.get('low')} to {rules.get('high')}"
    default = "chosen by the error" if entry.default is None else str(entry.default)
    return Option(entry.name, kind, default, rules.get("help", ""))


def _names(hint: Any) -> list[str]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    return [getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not type(None)]


def _example(kind: type[Pass]) -> str:
    return kind.example or str(kind())
