"""Rows in parallel, in pieces of a fixed size, so that results do not depend on the threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ROWS = 1024  # of one piece


def over_rows(
    function: Callable[..., tuple[Array, ...]], *arrays: Array, threads: int | None = None
) -> tuple[Array, ...]:
    """`function` on pieces of the rows of all arrays; its results joined along the rows.

    Linear algebra inside runs in one thread.
    """
    from threadpoolctl import threadpool_limits

    rows = len(arrays[0])
    places = [slice(start, start + ROWS) for start in range(0, max(rows, 1), ROWS)]
    with threadpool_limits(1), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        jobs = [
            pool.submit(copy_context().run, function, *(array[place] for array in arrays))
            for place in places
        ]
        pieces = [job.result() for job in jobs]
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))
