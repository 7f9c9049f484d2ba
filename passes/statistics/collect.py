"""collect(): one streaming look at the data for everything that is asked for.

Requests with the same answer share a sum. Where all sums together take more than `memory`, they are
taken in batches, each with a look of its own at the data. No activation is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError, UnsupportedError
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.runtime import Feed
from onnx_compress.ir.runtime.watch import Seen, Tap, Watch
from onnx_compress.passes.statistics.cache import Cache
from onnx_compress.passes.statistics.request import Look, Request

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

    `memory`: bytes that sums may take at a time. `threads`: samples that are run at a time.
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
    """Answers by the `key` of their requests, batch by batch, so that few are held at a time."""
    from threadpoolctl import threadpool_limits

    if not feeds:
        raise CalibrationError("there are no samples", "give some with --calib FILE")
    batches = _batches(requests, look or Look(), memory)
    done, total = 0, len(batches) * len(feeds)
    for batch in batches:
        sums = {key: request.start(look or Look()) for key, request in batch.items()}
        runs = [Watch(*part, threads).run_all(feeds) for part in _watched(model, sums.values())]
        for feed in feeds:
            seen = [next(run)[1] for run in runs]
            with threadpool_limits(1):
                _add(sums.values(), seen, _kept(feed, mask))
            done += 1
            if progress is not None:
                progress(done, total)
        for key in list(sums):
            yield key, sums.pop(key).result()


def _batches(requests: Sequence[Request], look: Look, memory: int) -> list[dict[Any, Request]]:
    """Greedily, in the order given; at least one request each."""
    found: list[dict[Any, Request]] = []
    left = 0
    for key, request in {request.key(): request for request in requests}.items():
        size = request.start(look).nbytes
        if not found or size > left:
            found.append({})
            left = memory
        found[-1][key] = request
        left -= size
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


def _add(sums: Any, seen: list[list[Seen]], kept: Array | None) -> None:
    """One run: of the main graph what was seen once, of bodies what was seen in each round."""
    for accumulator in sums:
        needed = {*accumulator.taps, *getattr(accumulator, "reference", ())}
        rounds = [[one for one in run if needed & one.keys()] for run in seen]
        width = max(map(len, rounds))
        for at in range(width):
            part: dict[Tap, Any] = {}
            for run in rounds:
                part |= run[at] if at < len(run) else {}
            accumulator.add(part, kept)


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
