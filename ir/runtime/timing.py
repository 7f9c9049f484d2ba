"""Sessions timed against each other."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnx_compress.ir.runtime.limits import check_cancelled
from onnx_compress.ir.runtime.session import Feed


class Timed(Protocol):
    """What is run: a Session, say."""

    def run(self, feed: Feed) -> list[Any]:
        """All outputs."""

    def call(self, feed: Feed) -> list[Any]:
        """The same at once, on this thread."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run, and the ratio of the first to each: above 1 is faster.

    `spread`: quartiles of the paired ratio.
    """

    milliseconds: tuple[float, ...]
    ratio: tuple[float, ...]
    spread: tuple[tuple[float, float], ...]


def compare_speed(sessions: Sequence[Timed], feeds: Sequence[Feed], seconds: float = 3.0) -> Timing:
    """Time sessions against each other: in turn on the same inputs, medians of the pairs.

    Takes about `seconds` in all, at least 5 and at most 200 rounds.
    """
    for session in sessions:
        session.run(feeds[0])
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < 200 and (len(rounds) < 5 or time.perf_counter() < end):
        check_cancelled()
        feed = feeds[len(rounds) % len(feeds)]
        took = []
        for session in sessions:
            start = time.perf_counter()
            session.call(feed)
            took.append(time.perf_counter() - start)
        rounds.append(took)
    table = np.array(rounds)
    ratios = table[:, :1] / table
    return Timing(
        tuple(float(statistics.median(column) * 1e3) for column in table.T),
        tuple(float(statistics.median(column)) for column in ratios.T),
        tuple((float(low), float(high)) for low, high in np.quantile(ratios, (0.25, 0.75), 0).T),
    )
