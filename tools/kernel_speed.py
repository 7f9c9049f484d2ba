"""kernel_speed(): every kernel against others and against the limits of the machine, in one run.

All that does the same is called in turn, and the medians of these rounds are compared: what else
the machine does in the meantime meets all of them alike.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnx_compress import kernel_cases
from onnx_compress.ir.errors import OptionError
from onnx_compress.ir.runtime import versions
from onnx_compress.ir.runtime.limits import check_cancelled
from onnx_compress.kernels.machine import paths
from onnx_compress.passes import Event
from onnx_compress.passes.base import ignore

SIZES = ((768, 3072), (4096, 4096))
ROWS = (1, 16, 128)
THREADS = (1, 2)
_PAUSE = 0.08  # seconds: what spins has gone to sleep after it


@dataclass(frozen=True)
class Row:
    """One kernel at one size. `milliseconds`: medians, ours first.

    `columns`, `rows`, `m`: of the product x [m, columns] w [rows, columns]^T; 0 where the name says
    it all. `ratios`: theirs over ours; above 1 we are faster.
    """

    kernel: str
    columns: int
    rows: int
    m: int
    threads: int
    milliseconds: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """How many times faster than each of the others."""
        ours = self.milliseconds[kernel_cases.OURS]
        return {
            name: theirs / ours
            for name, theirs in self.milliseconds.items()
            if name != kernel_cases.OURS
        }


@dataclass(frozen=True)
class Limits:
    """Of the machine at a number of threads: bytes and operations a second, in 10^9.

    `copy`: read and written by np.copyto, 64 MB each; `read`: read by a sum; `sgemm`: of
    1024 x 1024 in numpy. The peak of int8 is taken for 4 times that.
    """

    threads: int
    copy: float
    read: float
    sgemm: float


@dataclass(frozen=True)
class KernelSpeed:
    """All rows, and what they were measured on."""

    path: str
    processor: str
    versions: dict[str, str]
    limits: tuple[Limits, ...]
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        out = asdict(self)
        for row, found in zip(out["rows"], self.rows, strict=True):
            row["ratios"] = found.ratios
        return out


def kernel_speed(
    seconds: float = 0.5,
    sizes: Sequence[tuple[int, int]] | None = None,
    rows: Sequence[int] = ROWS,
    threads: Sequence[int] = THREADS,
    on_event: Callable[[Event], None] = ignore,
) -> KernelSpeed:
    """Measure all kernels; about `seconds` for each. Raises OptionError.

    `sizes`: columns and rows of weights, 768 x 3072 and 4096 x 4096 by default.
    """
    if not seconds > 0:
        raise OptionError(f"--seconds cannot be {seconds}", "half of one is enough")
    found = []
    plan = [(n, size, m) for n in threads for size in sizes or SIZES for m in rows]
    for done, (count, (columns, outs), m) in enumerate(plan):
        on_event(Event("progress", "sizes of products", done, len(plan)))
        for name, calls in kernel_cases.products(columns, outs, m, count):
            found.append(Row(name, columns, outs, m, count, _medians(calls, count, seconds)))
    for count in threads:
        for name, calls in kernel_cases.others(count):
            found.append(Row(name, 0, 0, 0, count, _medians(calls, count, seconds)))
    import numba

    return KernelSpeed(
        paths.select(),
        platform.processor() or platform.machine(),
        {**versions(), "numba": numba.__version__, "numpy": np.__version__},
        tuple(_limits(count, seconds) for count in threads),
        tuple(found),
    )


def _medians(calls: dict[str, Callable[[], Any]], threads: int, seconds: float) -> dict[str, float]:
    """Milliseconds of each call, in turn: at least 5 rounds, at most 200.

    With one thread, what the thread took, so that what else runs here counts for less. With more,
    three at a time, after a pause and a call that is not timed: threads of ONNX Runtime spin for a
    while after a call (60 ms), on the cores that the next one would take.
    """
    from threadpoolctl import threadpool_limits

    clock = time.thread_time if threads == 1 else time.perf_counter

    with threadpool_limits(threads):
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in _rounds(seconds):
            for name, call in calls.items():
                if threads > 1:
                    time.sleep(_PAUSE)
                    call()
                for _ in range(3 if threads > 1 else 1):
                    start = clock()
                    call()
                    times[name].append(clock() - start)
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


def _rounds(seconds: float) -> Iterator[int]:
    end = time.perf_counter() + seconds
    for at in range(200):
        if at >= 5 and time.perf_counter() > end:
            return
        check_cancelled()
        yield at


def _limits(threads: int, seconds: float) -> Limits:
    source, target = np.ones(1 << 24, np.float32), np.empty(1 << 24, np.float32)
    square = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    calls: dict[str, Callable[[], Any]] = {
        "copy": lambda: np.copyto(target, source),
        "read": lambda: source.sum(),
        "sgemm": lambda: square @ square,
    }
    took = _medians(calls, threads, seconds)
    work = {"copy": 2 * source.nbytes, "read": source.nbytes, "sgemm": 2 * 1024**3}
    return Limits(threads, *(work[name] / took[name] / 1e6 for name in calls))
