"""Bars on a terminal that say what is going on; nothing in a pipe."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from onnx_compress.cli.plain import plain
from onnx_compress.passes import Event
from onnx_compress.passes.base import ignore


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A listener for the events of a run. The bars are gone when it ends."""
    if quiet or not sys.stderr.isatty():
        yield ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counted]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("loading", total=None, counted="")

        def listen(event: Event) -> None:
            if event.kind == "stage":
                of = f"{event.done + 1}/{event.total} " if event.total else ""
                bars.reset(task, total=None, description=of + plain(event.text), counted="")
            elif event.kind == "progress":
                counted = f"{event.done}/{event.total} {plain(event.text)}"
                bars.update(task, completed=event.done, total=event.total, counted=counted)

        yield listen
