"""Work shared out to threads:  spread(job, 100, 8, threads=2)  ->  job(0, 8), job(8, 16), ...

Each job writes its own part of the output and reduces within itself, so the result does not depend
on who did what. Kernels release the interpreter's lock. numba's own threads are not used: they end
the process when two Python threads use them at a time, or a child after a fork.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Job = Callable[[int, int], None]

_WORTH = 5e-4  # seconds of work left for one thread, below which none is woken

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def spread(job: Job, count: int, grain: int, threads: int = 1) -> None:
    """Call job(start, stop) over [0, count), starts at multiples of `grain`.

    With `threads` > 1 on that many threads, the caller's among them, unless its first piece tells
    that there is too little to do; pieces are taken as threads become free. An error in any of them
    is raised here, after all have ended.
    """
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, not {threads}")
    if threads == 1 or count <= grain:
        if count > 0:
            job(0, count)
        return
    pieces = -(-count // grain)
    size = grain * max(1, pieces // (threads * 4))
    first = grain * max(1, size // grain // 4)
    began = time.perf_counter()
    job(0, first)
    if (time.perf_counter() - began) * (count - first) < _WORTH * first:
        job(first, count)
        return
    starts = itertools.count(first, size)  # next() on it is atomic

    def work() -> None:
        while (start := next(starts)) < count:
            job(start, min(start + size, count))

    others = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        failures = [e for other in others if not other.cancel() and (e := other.exception())]
    if failures:
        raise failures[0]


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        if workers not in _pools:
            name = "onnx-compress-kernels"
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix=name)
        return _pools[workers]


def _forget() -> None:
    """A child has none of the threads of its parent, and a lock of its own."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
