"""Events tell how far a run is, and a listener may end it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from onnx_compress import compress, plan
from onnx_compress.ir.errors import (
    CancelledError,
    VerificationError,
)
from onnx_compress.ir.graph import Model
from onnx_compress.passes import Context, Event, Pass, Phase, Report
from onnx_compress.passes.quant import Quant

from embedded_runs import (
    DATA,
    SOURCE,
    TEXT,
)
from models_by_text import left, quick

OPTIONS = {"layers": True, "measure": False, "threads": 2, "max_error": 0.6}


def listened(folder: Path, on_event: Callable[[Event], None], **options: Any) -> None:
    """A run with every event there is."""
    out = folder / "out.onnx"
    compress(SOURCE, "prune,quant", DATA, out, on_event=on_event, **OPTIONS, **options)


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> list[Event]:
    found: list[Event] = []
    listened(tmp_path_factory.mktemp("events"), found.append)
    return found


def test_events_tell_the_passes_in_order_and_how_far_they_are(events):
    stages = [event for event in events if event.kind == "stage"]
    names = [event.text for event in stages]
    assert names == ["original", "fold", "prune", "quant", "layers", "result"]
    assert [(e.done, e.total) for e in stages if e.total] == [(0, 3), (1, 3), (2, 3)]
    assert {event.kind for event in events} <= {"stage", "progress", "warning"}
    counted = {e.text for e in events if e.kind == "progress"}
    assert counted == {"samples", "weights", "weights refitted", "layers"}
    assert all(0 <= event.done <= event.total for event in events)
    for before, after in pairwise(events):
        if before.kind == after.kind == "progress" and before.text == after.text:
            starts_again = after.done <= 1
            assert starts_again or (after.done, after.total) == (before.done + 1, before.total)


def at_event(number: int, do: Callable[[], None]) -> Callable[[Event], None]:
    """A listener that does something at one event."""
    numbers = count()
    return lambda _: do() if next(numbers) == number else None


def assert_ended(folder: Path, listen: Callable[[Event], None], **options: Any) -> CancelledError:
    """The run ends; the file that is there stays, and nothing else is there."""
    (folder / "out.onnx").write_bytes(b"old")
    with pytest.raises(CancelledError) as caught:
        listened(folder, listen, **options)
    assert caught.value.hint
    assert left(folder) == {"out.onnx"}
    assert (folder / "out.onnx").read_bytes() == b"old"
    return caught.value


def throw(raised: BaseException) -> None:
    raise raised


RAISED = [
    (ValueError("mine"), False, 3),
    (VerificationError("mine"), True, 4),  # no pass has failed: this is the listener's
    (MemoryError("mine"), True, 6),
    (OSError(28, "full"), False, 6),
]


@pytest.mark.parametrize(("raised", "keep_going", "step"), RAISED)
def test_a_listener_that_raises_ends_the_run(tmp_path, events, raised, keep_going, step):
    for number in range(0, len(events), step):
        listen = at_event(number, lambda: throw(raised))
        ended = assert_ended(tmp_path, listen, keep_going=keep_going)
        assert ended.__cause__ is raised
    listened(tmp_path, lambda _: None)


def test_a_listener_that_raises_ends_a_plan():
    found: list[Event] = []
    plan(SOURCE, TEXT, DATA, on_event=found.append)
    for number in range(len(found)):
        with pytest.raises(CancelledError) as caught:
            plan(SOURCE, TEXT, DATA, on_event=at_event(number, lambda: throw(RAISED[0][0])))
        assert caught.value.__cause__ is RAISED[0][0]


def test_ctrl_c_in_a_listener_stays_what_it_is(tmp_path, events):
    for number in range(0, len(events), 7):
        with pytest.raises(KeyboardInterrupt):
            listened(tmp_path, at_event(number, lambda: throw(KeyboardInterrupt())))
        assert left(tmp_path) == set()


@dataclass(frozen=True)
class Deaf(Pass):
    """Swallows all errors, as passes that people write may do."""

    name: ClassVar[str] = "deaf"

    @property
    def phase(self) -> Phase:
        return Phase.MASK

    def run(self, model: Model, context: Context) -> Report:
        try:
            context.progress(0, 1, "things")
        except Exception as error:
            return Report(summary=str(error))
        return Report()


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_pass_that_swallows_errors_does_not_swallow_the_end(tmp_path, keep_going):
    def listen(event: Event) -> None:
        if event.text == "things":
            raise ValueError("enough")

    out = tmp_path / "out.onnx"
    with pytest.raises(CancelledError):
        quick(SOURCE, [Deaf(), Quant(bits=8)], DATA, out, on_event=listen, keep_going=keep_going)
    assert left(tmp_path) == set()


def test_an_end_asked_for_at_any_event_comes(tmp_path, events):
    """Also at the last one: the result is not in its place then."""
    for number in range(len(events)):
        cancel = threading.Event()
        assert_ended(tmp_path, at_event(number, cancel.set), cancel=cancel)
    listened(tmp_path, lambda _: None, cancel=threading.Event())


@pytest.mark.parametrize("function", [compress, plan])
def test_an_end_asked_for_before_comes_at_once(function):
    cancel, seen = threading.Event(), []
    cancel.set()
    with pytest.raises(CancelledError):
        function(SOURCE, TEXT, DATA, cancel=cancel, on_event=seen.append)
    assert seen == []
