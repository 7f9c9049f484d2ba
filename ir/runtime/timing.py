"""Sessions timed against each other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnx_compress.ir.runtime.limits import check_cancelled
from onnx_compress.ir.runtime.session import Feed

# processor time of this thread, where the system counts it finely
_FINE = time.get_clock_info("thread_time").resolution < 1e-6
_own_time = time.thread_time if _FINE else time.perf_counter


class Timed(Protocol):
    """What is run: a Session, say."""

    def run(self, feed: Feed) -> list[Any]:
        """All outputs."""

    def call(self, feed: Feed) -> list[Any]:
        """The same at once, on this thread."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run, and the ratio of the first to each: above 1 is faster.

    `spread`: quartiles of the paired ratio. Milliseconds are those of the first, and of the others
    by their ratio: where inputs differ in size, medians of each alone would not go together.
    """

    milliseconds: tuple[float, ...]
    ratio: tuple[float, ...]
    spread: tuple[tuple[float, float], ...]


def compare_speed(
    sessions: Sequence[Timed], feeds: Sequence[Feed], seconds: float = 3.0, threads: int = 1
) -> Timing:
    """Time sessions against each other: in turn on the same inputs, medians of pairs of rounds.

    Whoever runs first on an input fetches it from memory and is slower for it, so of two rounds
    one is in reverse. Takes about `seconds` in all, at least 6 and at most 1,000 rounds.
    `threads` of one run: with one, what else the machine does is not counted.
    """
    clock = _own_time if threads == 1 else time.perf_counter
    for session in sessions:
        session.run(feeds[0])
    order = list(range(len(sessions)))
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) % 2 or len(rounds) < 6 or (len(rounds) < 1000 and time.perf_counter() < end):
        check_cancelled()
        feed = feeds[len(rounds) % len(feeds)]
        took = [0.0] * len(sessions)
        for at in order:
            start = clock()
            sessions[at].call(feed)
            took[at] = clock() - start
        rounds.append(took)
        order.reverse()
    table = np.array(rounds).reshape(-1, 2, len(sessions)).mean(1)
    ratios = table[:, :1] / table
    ratio = np.median(ratios, 0)
    return Timing(
        tuple((float(np.median(table[:, 0])) * 1e3 / ratio).tolist()),
        tuple(ratio.tolist()),
        tuple((float(low), float(high)) for low, high in np.quantile(ratios, (0.25, 0.75), 0).T),
    )
