"""What the original model gives on the samples that results are judged on."""

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from onnx_compress.ir.errors import CalibrationError, InvalidError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.runtime import Feed, Session
from onnx_compress.passes.verify.quality import Quality, Tally

_STABLE = 1e-3  # relative difference of two equal runs


class Reference:
    """Outputs of the original, computed once and kept in a scratch file, not in memory."""

    def __init__(self, session: Session, feeds: Sequence[Feed], drawn: bool = False) -> None:
        """Run the original on the samples. Raises CalibrationError where it cannot.

        `drawn`: the samples are no real ones. Outputs then hardly vary, and what varies means
        little, so errors are not centred.
        """
        self.feeds, self.drawn = feeds, drawn
        self.names = [port.name for port in session.outputs]
        self.unstable: frozenset[str] = frozenset()  # outputs that differ between equal runs
        self._file = tempfile.TemporaryFile(prefix="onnx-compress-")  # noqa: SIM115
        for number, feed in enumerate(feeds):
            try:
                outputs = session.run(feed)
            except InvalidError as error:
                hint = "check names, shapes and types of the data"
                raise CalibrationError(error.message, hint, f"sample {number}") from None
            pickle.dump(outputs, self._file, protocol=pickle.HIGHEST_PROTOCOL)
            if number == 0:
                self.unstable = self._differing(outputs, session.run(feed))

    def _differing(self, first: list[Any], second: list[Any]) -> frozenset[str]:
        tallies = [Tally(name) for name in self.names]
        for tally, one, other in zip(tallies, first, second, strict=True):
            tally.add(one, other)
        # sums of several threads may differ in the last digits
        return frozenset(t.name for t in tallies if t.result().plain_error > _STABLE)

    def outputs(self) -> Iterator[list[Any]]:
        """Outputs sample by sample."""
        self._file.seek(0)
        for _ in self.feeds:
            yield pickle.load(self._file)

    def error(self, quality: Quality) -> float:
        """The one number that decides: see `max_error`."""
        return quality.plain_error if self.drawn else quality.error

    def judge(self, model: Model | Session) -> Quality:
        """Compare a model with the original; outputs that are random are left out.

        Raises InvalidError if it does not load or run.
        """
        session = model if isinstance(model, Session) else Session(model)
        tallies = [Tally(name) for name in self.names]
        for feed, expected in zip(self.feeds, self.outputs(), strict=True):
            for tally, r, y in zip(tallies, expected, session.run(feed), strict=True):
                if tally.name not in self.unstable:
                    tally.add(r, y)
        judged = (tally for tally in tallies if tally.name not in self.unstable)
        return Quality(tuple(tally.result() for tally in judged))
