"""What sessions may take and may load, set once for a whole run."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

WHOLE = 1 << 30  # bytes of weights up to which a model is run whole
SECONDS = 600.0  # that one run of a model on one sample may take
_SHARE = 16  # a piece of a larger model may take this share of that

_whole: ContextVar[int] = ContextVar("bytes of a model that is run whole", default=WHOLE)
_seconds: ContextVar[float] = ContextVar("seconds that one run may take", default=SECONDS)
_libraries: ContextVar[tuple[Path, ...]] = ContextVar("custom operators", default=())
_end: ContextVar[Callable[[], None] | None] = ContextVar("raises once it is to end", default=None)


@contextlib.contextmanager
def memory(whole: int) -> Iterator[None]:
    """Run models whose weights take more than `whole` bytes in pieces of a sixteenth of that."""
    token = _whole.set(whole)
    try:
        yield
    finally:
        _whole.reset(token)


@contextlib.contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """End runs of a model that take longer: some never end by themselves."""
    token = _seconds.set(seconds)
    try:
        yield
    finally:
        _seconds.reset(token)


@contextlib.contextmanager
def custom_operators(libraries: Sequence[Path]) -> Iterator[None]:
    """Load these libraries of custom operators into every session. They are run, so trust them."""
    token = _libraries.set(tuple(libraries))
    try:
        yield
    finally:
        _libraries.reset(token)


@contextlib.contextmanager
def cancellable(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at every step, and within runs; it raises CancelledError once it is to end."""
    token = _end.set(end)
    try:
        yield
    finally:
        _end.reset(token)


def check_cancelled() -> None:
    """Raises CancelledError where an end was asked for."""
    end = _end.get()
    if end is not None:
        end()


def whole_bytes() -> int:
    """Bytes of weights up to which a model is run whole."""
    return _whole.get()


def piece_bytes() -> int:
    """Bytes of weights that are loaded at a time of a model that is not run whole."""
    return max(_whole.get() // _SHARE, 1)


def run_seconds() -> float:
    """Seconds that one run may take."""
    return _seconds.get()


def libraries() -> tuple[Path, ...]:
    """The libraries of custom operators that the user trusts."""
    return _libraries.get()
