"""Passes by name, found through the entry points of the group `onnx_compress.passes`."""

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from onnx_compress.ir.errors import PipelineError, UnknownPassError
from onnx_compress.passes.base import Pass

GROUP = "onnx_compress.passes"


@cache
def _found() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            both = f"{known.value} and {point.value}"
            raise PipelineError(f"two passes are called {point.name!r}: {both}", "remove one")
    return found


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
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        text = f"the pass {name!r} of {point.value} cannot be loaded: {error}"
        raise PipelineError(text, "reinstall the package that it comes from") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        raise PipelineError(f"{point.value} is no Pass", "see docs/architecture.md")
    return loaded
