"""Passes by name, found through the entry points of the group `onnx_compress.passes`."""

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from onnx_compress.ir.errors import PipelineError, UnknownPassError
from onnx_compress.passes.base import Pass, Phase

GROUP = "onnx_compress.passes"


@cache
def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _twice(name: str) -> set[str]:
    return {point.value for point in entry_points(group=GROUP, name=name)}


def names() -> list[str]:
    """Names of all passes installed."""
    return sorted(_found())


def find(name: str) -> type[Pass]:
    """The pass of a name. Raises UnknownPassError with the nearest name."""
    point = _found().get(name)
    if point is None:
        close = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names())}"
        raise UnknownPassError(f"no pass is called {name!r}", hint)
    both = " and ".join(sorted(_twice(name)))
    if " and " in both:
        raise PipelineError(f"two passes are called {name!r}: {both}", "remove one")
    hint = "report it to whoever made it, or remove its package"
    try:
        loaded = point.load()
    except Exception as error:  # a package may be broken in any way
        text = f"the pass {name!r} of {point.value} cannot be loaded: {error}"
        raise PipelineError(text, hint) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        raise PipelineError(f"{point.value} is no Pass", hint)
    try:
        if not isinstance(loaded.name, str) or not isinstance(loaded().phase, Phase):
            raise TypeError("its name or its phase")
    except Exception as error:
        text = f"the pass {name!r} of {point.value} is not whole: {error or type(error).__name__}"
        raise PipelineError(text, hint) from error
    return loaded
