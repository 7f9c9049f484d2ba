"""Rows in parallel, in pieces that hang on the shapes alone, so that results do not on the threads.

    weight [R, K],    moment [K, K]       pieces of the rows, all with the same moment
    weight [G, R, K], moment [G, K, K]    pieces of the groups, each with the moments of its own

Linear algebra inside runs in one thread: sums in another order would be other bytes.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_LEAST, _MOST = 512, 1024  # rows of a piece; with fewer, calls for each column take longer
_NUMBERS = 1 << 18  # of the weights of a piece of groups


def over_rows(
    function: Callable[..., tuple[Array, ...]],
    moment: Array,
    *arrays: Array,
    threads: int | None = None,
    least: int = _LEAST,
) -> tuple[Array, ...]:
    """`function(moment, *arrays)` on pieces; its results joined again.

    `arrays`: the weight, [R, K] or [G, R, K], and others whose leading axes are like its own.
    `moment`: anything that all rows share, and groups have of their own. The function is given,
    and gives, arrays with groups: [1, rows, ...] or [groups, R, ...]. `least`: rows of a piece.
    """
    alone = arrays[0].ndim == 2
    wide = [array[None] if alone else array for array in (moment, *arrays)]
    places = _places(wide[1].shape, least)
    jobs = [
        [wide[0] if alone else wide[0][groups], *(array[groups, rows] for array in wide[1:])]
        for groups, rows in places
    ]
    if len(jobs) == 1 or threads == 1:
        with one_thread():
            found = [function(*job) for job in jobs]
    else:
        with workers(min(threads or os.cpu_count() or 1, len(jobs))) as pool:
            runs = [pool.submit(copy_context().run, function, *job) for job in jobs]
            found = [run.result() for run in runs]
    axis = 1 if wide[1].shape[0] == 1 else 0
    joined = [np.concatenate(part, axis) for part in zip(*found, strict=True)]
    return tuple(array[0] if alone else array for array in joined)


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which linear algebra runs in one."""
    # where linear algebra is on OpenMP, each thread has a limit of its own
    with one_thread(), ThreadPoolExecutor(threads, initializer=_limit) as pool:
        yield pool


def _places(shape: tuple[int, ...], least: int) -> list[tuple[slice, slice]]:
    """Which groups and which rows make a piece."""
    groups, rows = shape[:2]
    if groups == 1:
        size = min(max(-(-rows // 4), least), _MOST)
        return [(slice(0, 1), slice(at, at + size)) for at in range(0, max(rows, 1), size)]
    size = max(_NUMBERS // max(int(np.prod(shape[1:])), 1), 1)
    return [(slice(at, at + size), slice(None)) for at in range(0, groups, size)]


class _Limit:
    """How many are inside, and what they hold."""

    lock, inside = Lock(), 0
    held: Any = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra in one thread, in all of the process, until the last one has left.

    Layers may be solved at the same time: none of them takes the limit from the others.
    """
    with _Limit.lock:
        if not _Limit.inside:
            _Limit.held = _limit()
        _Limit.inside += 1
    try:
        yield
    finally:
        with _Limit.lock:
            _Limit.inside -= 1
            if not _Limit.inside:
                _take_over()
                _Limit.held.restore_original_limits()
                _take_over()


def _limit() -> Any:
    _take_over()
    return _libraries().limit(limits=1)


@cache
def _libraries() -> Any:
    """Of linear algebra. To look for them takes longer than a small weight does."""
    # scipy has a BLAS of its own: loaded later, it would have as many threads as there are cores
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _take_over() -> None:
    """threadpoolctl, from 3.7 on, listens to the thread alone that set a limit first."""
    from threadpoolctl import OpenBLASController

    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
