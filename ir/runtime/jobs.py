"""Runs on threads of their own, so that Ctrl-C and time end them."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from onnx_compress.ir.errors import TooLongError
from onnx_compress.ir.runtime.limits import check_cancelled

_GRACE = 10.0  # seconds that a run which was told to end is waited for
_LOOK = 0.1  # seconds between looks at whether the run is to be cancelled

Call = Callable[[Any, Any], list[Any]]


def in_order(call: Call, feeds: Sequence[Any], threads: int, seconds: float) -> Iterator[list[Any]]:
    """What `call(feed, run_options)` gives, feed by feed, some at a time.

    Raises what it raises, and TooLongError where one takes longer than `seconds`.
    """
    jobs: deque[_Job] = deque()
    try:
        for feed in feeds:
            jobs.append(_Job(call, feed, threads, seconds))
            if len(jobs) > threads:  # one waits, so that no thread does
                yield _first(jobs)
        while jobs:
            yield _first(jobs)
    finally:
        for job in jobs:
            job.end()


class _Job:
    """One run on another thread."""

    def __init__(self, call: Call, feed: Any, threads: int, seconds: float) -> None:
        import onnxruntime

        self._options = onnxruntime.RunOptions()
        self._seconds = seconds
        self._future = _workers(threads).submit(call, feed, self._options)

    def outputs(self) -> list[Any]:
        end = time.monotonic() + self._seconds
        while True:
            left = end - time.monotonic()
            if wait([self._future], min(max(left, 0.0), _LOOK)).done:
                return self._future.result()
            check_cancelled()
            if left <= 0:
                hint = "give it more with --timeout SECONDS"
                raise TooLongError(f"it does not end a run in {self._seconds:g} s", hint)

    def end(self) -> None:
        """Stop it if it still runs: before the next node, that is."""
        self._options.terminate = True
        wait([self._future], _GRACE)


def _first(jobs: deque[_Job]) -> list[Any]:
    """Outputs of the first job, which is dropped then: nobody holds on to what is given out."""
    results = jobs[0].outputs()
    jobs.popleft()
    return results


class _Pools(threading.local):
    """For each thread that runs models, so that those of one never wait for another's."""

    def __init__(self) -> None:
        self.by_count: dict[int, ThreadPoolExecutor] = {}


_pools = _Pools()


def _workers(count: int) -> ThreadPoolExecutor:
    """Threads that are used again and again: each new one takes memory of its own for good."""
    if count not in _pools.by_count:
        pool = ThreadPoolExecutor(count, thread_name_prefix="onnx-compress")
        _pools.by_count[count] = pool
    return _pools.by_count[count]


if hasattr(os, "register_at_fork"):  # a child has none of the threads of its parent
    os.register_at_fork(after_in_child=lambda: _pools.by_count.clear())
