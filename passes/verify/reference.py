"""What the original model gives on the samples that results are judged on."""

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from onnx_compress.ir.errors import CalibrationError, InvalidError, TooLongError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.storage import scratch
from onnx_compress.ir.runtime import Feed, Runner, open_session
from onnx_compress.passes.verify.metric import Metric
from onnx_compress.passes.verify.quality import Quality, Tally

_STABLE = 1e-3  # relative difference of two equal runs


def _silent(_done: int, _total: int) -> None:
    """Progress that nobody asked for."""


class Reference:
    """Outputs of the original, computed once and kept in a scratch file, not in memory.

    `unjudged`: why, for each output of which nothing can be told: it is random, NaN or empty.
    """

    def __init__(
        self,
        session: Runner,
        feeds: Sequence[Feed],
        drawn: bool = False,
        metric: Metric | None = None,
        progress: Callable[[int, int], None] = _silent,
        numbers: Sequence[int] = (),
    ) -> None:
        """Run the original on the samples. Raises CalibrationError where it cannot.

        `drawn`: the samples are no real ones. Outputs then hardly vary, and what varies means
        little, so errors are not centred. `progress` is told how many samples of how many are done.
        `numbers`: what errors call the samples.
        """
        self.metric, self._progress = metric, progress
        self.feeds, self.drawn, self.threads = feeds, drawn, session.threads
        self.names = [port.name for port in session.outputs]
        self.unjudged: dict[str, str] = {}
        with scratch():
            self._file = tempfile.TemporaryFile(prefix="onnx-compress-")  # noqa: SIM115
        telling = [False] * len(self.names)
        twice: list[Any] = []
        runs = session.run_all([feeds[0], *feeds])  # the first one twice: is it random?
        for number in range(-1, len(feeds)):
            try:
                outputs = next(runs)
            except TooLongError:
                raise
            except InvalidError as error:
                hint = "check names, shapes and types of the data"
                called = [*numbers, *range(len(numbers), len(feeds))][max(number, 0)]
                raise CalibrationError(error.message, hint, f"sample {called}") from None
            if number <= 0:
                twice.append(outputs)
            if number >= 0:
                with scratch():
                    pickle.dump(outputs, self._file, protocol=pickle.HIGHEST_PROTOCOL)
                    self._file.flush()
                telling = [a or _tells(b) for a, b in zip(telling, outputs, strict=True)]
                progress(number + 1, len(feeds))
        for name, tells in zip(self.names, telling, strict=True):
            if not tells:
                self.unjudged[name] = "is NaN, infinite or empty on every input"
        for name in self._differing(*twice):
            self.unjudged[name] = "differs between equal runs"
        self.score = metric.of(session) if metric else None

    def _differing(self, first: list[Any], second: list[Any]) -> list[str]:
        tallies = [Tally(name) for name in self.names]
        for tally, one, other in zip(tallies, first, second, strict=True):
            tally.add(one, other)
        return [tally.name for tally in tallies if tally.result().plain_error > _STABLE]

    def outputs(self) -> Iterator[list[Any]]:
        """Outputs sample by sample."""
        self._file.seek(0)
        for _ in self.feeds:
            yield pickle.load(self._file)

    @property
    def judges(self) -> bool:
        """Whether anything can be told of a model by these samples."""
        return len(self.unjudged) < len(self.names)

    def error(self, quality: Quality) -> float:
        """The one number that decides: see `max_error`. Infinite where there is NaN."""
        if quality.error == float("inf"):
            return quality.error
        return quality.plain_error if self.drawn else quality.error

    def apart(self, model: Model) -> float:
        """error^2 of a model in floats, or what parts of an output lose, if more.

        What is made bytes and back is so, but no operator computes in bytes.
        """
        session = open_session(model, self.threads, simulated=True)
        quality = self.judged(session.run_all(self.feeds))
        return max(self.error(quality) ** 2, quality.lost)

    def drop(self, quality: Quality) -> float:
        """How much the metric fell; 0 where there is none."""
        if self.score is None or quality.score is None:
            return 0.0
        return self.score - quality.score

    def judge(self, model: Model | Runner, score: bool = False) -> Quality:
        """Compare a model with the original, by the outputs that can be judged.

        `score`: also by the metric. Raises InvalidError if it does not load or run.
        """
        session = open_session(model, self.threads) if isinstance(model, Model) else model
        quality = self.judged(session.run_all(self.feeds), self._progress)
        reached = self.metric.of(session) if self.metric and score else None
        return Quality(quality.outputs, reached)

    def judged(
        self, runs: Iterable[list[Any]], progress: Callable[[int, int], None] = _silent
    ) -> Quality:
        """Compare outputs with those of the original: on its samples, the first ones at least."""
        tallies = [Tally(name) for name in self.names]
        for done, (expected, actual) in enumerate(zip(self.outputs(), runs, strict=False), 1):
            for tally, r, y in zip(tallies, expected, actual, strict=True):
                if tally.name not in self.unjudged:
                    tally.add(r, y)
            progress(done, len(self.feeds))
        return Quality(tuple(t.result() for t in tallies if t.name not in self.unjudged))


def _tells(output: Any) -> bool:
    """Whether an output has anything that can be compared."""
    if not isinstance(output, np.ndarray):
        return output is not None
    if not np.issubdtype(output.dtype, np.floating):
        return output.size > 0
    return bool(np.isfinite(output).any())
