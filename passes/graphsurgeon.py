"""graphsurgeon: anybody's onnx-graphsurgeon script as a verified pass.

    def relu6(graph: gs.Graph) -> gs.Graph | None: ...      # None: it edited the graph in place

    compress("in.onnx", Pipeline((GraphSurgeonPass(relu6),)), out="out.onnx")

The script runs on a copy. What it leaves alone stays as it is, also what graphsurgeon itself would
drop; what it makes is checked and compared like the result of any pass.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from onnx_compress.ir.errors import PassError
from onnx_compress.ir.graph import Model
from onnx_compress.passes.base import Context, Entry, Pass, Phase, Report

if TYPE_CHECKING:
    from onnx_compress.ir.graph.gs.changes import Changes

_LISTED = 20  # entries of a kind; a script may touch every node of a large model

# field of Changes -> what was done, and what it was done to
_TEXTS = {
    "nodes_added": ("added", "node"),
    "nodes_removed": ("removed", "node"),
    "nodes_changed": ("changed", "node"),
    "weights_added": ("added", "weight"),
    "weights_removed": ("removed", "weight"),
    "weights_replaced": ("replaced", "weight"),
}


@dataclass(frozen=True)
class GraphSurgeonPass(Pass):
    """A script that edits a gs.Graph, or returns another one.

    `exact`: it promises the same outputs up to rounding, and is refused if they are not.
    `phase`: where it stands in a pipeline, by what the script does. What it does is not known, so
    that has to be said wherever it is not clean-up.
    """

    name: ClassVar[str] = "graphsurgeon"
    function: Callable[[Any], Any]
    # a class says this of all its instances; here each script says it of itself
    exact: bool = field(default=False, kw_only=True)  # type: ignore[misc]
    phase: Phase = field(default=Phase.CLEAN, kw_only=True)

    def run(self, model: Model, context: Context) -> Report:
        """Run the script. Raises PassError, and whatever the script raises."""
        from onnx_compress.ir.graph import gs  # slow to import

        trip = gs.Trip(model)
        try:
            result = self.function(trip.graph)
        except SystemExit as error:
            hint = "let the script return, or raise an error that says what is wrong"
            raise PassError(f"it wanted to end the program: exit({error.code})", hint) from error
        after, changes = trip.back(trip.graph if result is None else result)
        if not changes.any:
            return Report(summary="nothing changed")
        model.become(after)
        return _report(changes)

    def __str__(self) -> str:
        """With the name of the function, which text cannot give back."""
        given = [
            f"{entry.name}={str(value).lower() if isinstance(value, bool) else value.name.lower()}"
            for entry in fields(self)
            if entry.name != "function" and (value := getattr(self, entry.name)) != entry.default
        ]
        return f"{self.name}({', '.join([_called(self.function), *given])})"


def _called(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _report(changes: "Changes") -> Report:
    entries: list[Entry] = []
    counts: list[str] = []
    for key, (done, what) in _TEXTS.items():
        names = getattr(changes, key)
        if names:
            counts.append(f"{len(names)} {what}{'s' if len(names) > 1 else ''} {done}")
            entries += _entries(names, f"{what} {done}")
    if not entries:
        entries.append(Entry("graph", "names, types, documentation or the order of nodes changed"))
    notes = [f"nothing reads the input {name} any more" for name in changes.unread[:_LISTED]]
    return Report(tuple(entries), summary=", ".join(counts) or "other changes", notes=tuple(notes))


def _entries(names: Iterable[str], text: str) -> list[Entry]:
    listed = list(names)
    out = [Entry(name, text) for name in listed[:_LISTED]]
    if len(listed) > _LISTED:
        out.append(Entry(f"{len(listed) - _LISTED} more", text))
    return out
