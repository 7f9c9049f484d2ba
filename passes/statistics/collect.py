"""collect(): one streaming look at the data for everything that is asked for.

Requests with the same answer share a sum. Where all sums together take more than `memory`, they are
taken in batches, each with a run of its own over the data. No activation is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError, UnsupportedError
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.runtime.watch import Seen, Tap, Watch
from onnx_compress.passes.solvers.parallel import one_thread
from onnx_compress.passes.statistics.cache import Cache
from onnx_compress.passes.statistics.request import Accumulator, Look, Request

MEMORY = 256 << 20  # bytes that sums may take at a time
Statistics = Mapping[Request, Any]


def collect(
    model: Model,
    requests: Sequence[Request],
    feeds: Sequence[Feed],
    *,
    look: Look | None = None,
    memory: int = MEMORY,
    threads: int = 1,
    mask: str = "",
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Statistics:
    """The answer to every request, by request.

    `memory`: bytes that sums may take at a time. `threads`: samples that are run, and sums that are
    added to, at a time; no number depends on it.
    `mask`: an input [batch, steps] that is 0 where a position is to count for nothing. `progress`
    is told how many of how many runs are done. `cache`: a folder for answers, where those of equal
    models and data are found again. Raises CalibrationError, InvalidError, LoadError, OutputError,
    UnsupportedError.
    """
    kept = Cache(cache, model, feeds, look or Look(), mask) if cache is not None else None
    found = {request.key(): kept.get(request) for request in requests} if kept else {}
    answers = {key: answer for key, answer in found.items() if answer is not None}
    wanted = {request.key(): request for request in requests if request.key() not in answers}
    if wanted or not feeds:
        new = stream(model, list(wanted.values()), feeds, look, memory, threads, mask, progress)
        for key, answer in new:
            answers[key] = answer
            if kept is not None:
                kept.put(wanted[key], answer)
    return {request: answers[request.key()] for request in requests}


def stream(
    model: Model,
    requests: Sequence[Request],
    feeds: Sequence[Feed],
    look: Look | None = None,
    memory: int = MEMORY,
    threads: int = 1,
    mask: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Answers by the `key` of their requests, batch by batch, so that few are held at a time.

    All that is asked for is watched in every batch: numbers must not depend on what is summed.
    """
    if not feeds:
        raise CalibrationError("there are no samples", "give some with --calib FILE")
    look = replace(look or Look(), samples=sum(map(_samples, feeds)))
    sums = {request.key(): request.start(look) for request in requests}
    watches = [Watch(*part, threads, optimize=True) for part in _watched(model, sums.values())]
    batches = _batches(requests, sums, memory)
    done, total = 0, len(batches) * len(feeds)
    with ThreadPoolExecutor(threads) as pool, one_thread():
        for batch in batches:
            sums = {key: request.start(look) for key, request in batch.items()}
            runs = [watch.run_all(feeds) for watch in watches]
            for feed in feeds:
                seen, kept = [next(run)[1] for run in runs], _kept(feed, mask)
                for _ in pool.map(partial(_add, seen, kept), sums.values()):
                    pass  # raises what was raised
                del seen  # before the next run
                done += 1
                if progress is not None:
                    progress(done, total)
            for key in list(sums):
                yield key, sums.pop(key).result()


def _batches(
    requests: Sequence[Request], sums: Mapping[Any, Accumulator], memory: int
) -> list[dict[Any, Request]]:
    """Greedily, in the order given; at least one request each."""
    found: list[dict[Any, Request]] = []
    left = 0
    for key, request in {request.key(): request for request in requests}.items():
        if not found or sums[key].nbytes > left:
            found.append({})
            left = memory
        found[-1][key] = request
        left -= sums[key].nbytes
    return found


def _watched(model: Model, sums: Any) -> list[tuple[Model, list[Tap]]]:
    """The models to run, with their taps: this one, then those that it is compared with."""
    found: dict[int, tuple[Model, dict[Tap, None]]] = {id(model): (model, {})}
    for accumulator in sums:
        found[id(model)][1].update(dict.fromkeys(accumulator.taps))
        other = getattr(accumulator, "model", None)
        if other is not None:
            entry = found.setdefault(id(other), (other, {}))
            entry[1].update(dict.fromkeys(accumulator.reference))
    return [(each, list(taps)) for each, taps in found.values()]


def _add(seen: list[list[Seen]], kept: Array | None, accumulator: Accumulator) -> None:
    """One run: of the main graph what was seen once, of bodies what was seen in each round."""
    needed = {*accumulator.taps, *getattr(accumulator, "reference", ())}
    rounds = [[one for one in run if needed & one.keys()] for run in seen]
    for at in range(max(map(len, rounds))):
        part: dict[Tap, Any] = {}
        for run in rounds:
            part |= run[at] if at < len(run) else {}
        accumulator.add(part, kept)


def _samples(feed: Feed) -> int:
    """How many samples a feed has: the least along the first axes of its inputs."""
    return max(min((len(array) for array in feed.values() if np.ndim(array)), default=1), 1)


def _kept(feed: Feed, mask: str) -> Array | None:
    if not mask:
        return None
    if mask not in feed:
        known = ", ".join(feed)
        raise CalibrationError(f"there is no input {mask!r} to be the mask", f"inputs: {known}")
    found = np.asarray(feed[mask])
    if found.ndim != 2:
        raise UnsupportedError(f"a mask of shape {list(found.shape)}", "it must be [batch, steps]")
    return np.asarray(found != 0)
