"""All checks of one compressed model against its original, in order; each says what it found.

file -> stored -> executed -> whole model -> layers
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from onnx_compress.ir.analysis import Cost, Shapes, cost
from onnx_compress.ir.errors import CancelledError, CompressError, OutputError, TooLongError
from onnx_compress.ir.graph import Model
from onnx_compress.ir.graph.elements import type_name
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.runtime import fits
from onnx_compress.ir.runtime.optimized import Optimized, optimized
from onnx_compress.ir.runtime.watch import Watch
from onnx_compress.passes.verify import contributions as layers
from onnx_compress.passes.verify import executed as nodes
from onnx_compress.passes.verify import file, stored, whole
from onnx_compress.passes.verify.contributions import Contributions
from onnx_compress.passes.verify.executed import Executed, Watching
from onnx_compress.passes.verify.file import FileCheck
from onnx_compress.passes.verify.finding import Finding, Severity
from onnx_compress.passes.verify.reference import Reference
from onnx_compress.passes.verify.stored import StoredWeights
from onnx_compress.passes.verify.whole import WholeModel

_WATCHED = 2  # samples that nodes are recomputed on
_UNLIKE = 0.3  # relative error of a weight that may be that of another
T = TypeVar("T")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Levels:
    """What each check found; None for what could not be looked at, which a finding explains.

    `costs`: of the original and of the compressed model.
    """

    file: FileCheck
    stored: StoredWeights
    executed: Executed | None
    whole: WholeModel | None
    layers: Contributions | None
    costs: tuple[Cost, Cost] | None
    extra: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all checks, the worst first."""
        parts = (self.file, self.stored, self.executed, self.whole, self.layers)
        found = chain(*(part.findings for part in parts if part is not None), self.extra)
        return tuple(sorted(found, key=lambda finding: -finding.severity))


@dataclass(frozen=True)
class Subject:
    """What is checked. `bases`: the original, as it is and cleaned up; weights of the compressed
    model are compared with those of the one that they are nearer to. `path`: its file, if it has
    one, so that the runtime reads that.
    """

    bases: Sequence[Model]
    compressed: Model
    path: Path | None
    reference: Reference
    max_error: float | None = None
    table: bool = True
    watching: Watching = Watch

    def levels(self, progress: Progress) -> Levels:
        """Look at everything that can be looked at. Raises CancelledError, TooLongError."""
        found = _Found(self, progress)
        ran = found.guarded("file", self._ran)
        checked = file.checked(self.bases[0], self.compressed, ran)
        kept, base = self._stored(progress)
        low = None
        if ran is not None:
            low = found.guarded("executed", lambda: self._executed(ran, progress))
        outputs = found.guarded("whole model", lambda: self._whole(progress))
        costs = found.guarded("cost", self._costs) if outputs is not None else None
        table = None
        if outputs is not None and costs is not None and self.table and fits(self.bases[0]):
            table = self._layers(base, kept, costs[0].macs, outputs.error, progress)
        return Levels(checked, kept, low, outputs, table, costs, tuple(found.extra))

    def _ran(self) -> Optimized | None:
        if not fits(self.compressed):
            return None
        return optimized(self.path or self.compressed, self.reference.feeds[0])

    def _stored(self, progress: Progress) -> tuple[StoredWeights, Model]:
        """Against the base that fits better."""
        progress(stored.LEVEL, 0, 0)
        found: list[tuple[StoredWeights, Model]] = []
        tried: list[frozenset[bytes]] = []
        for base in self.bases[::-1]:
            weights = _weights(base)
            if weights in tried:  # cleaning up changed none
                continue
            tried.append(weights)
            one = stored.stored(base, self.compressed, _about(progress, "weights"))
            found.append((one, base))
            if _near(one):
                break
        return min(found, key=lambda pair: _distance(pair[0]))

    def _executed(self, ran: Optimized, progress: Progress) -> Executed:
        feeds = self.reference.feeds[:_WATCHED]
        told = _about(progress, "samples")
        return nodes.executed(self.compressed, ran, feeds, self.watching, told)

    def _whole(self, progress: Progress) -> WholeModel:
        told = _about(progress, "samples")
        model = self.path or self.compressed
        return whole.compared(model, self.compressed, self.reference, self.max_error, told)

    def _costs(self) -> tuple[Cost, Cost]:
        feed = self.reference.feeds[0]
        models = self.bases[0], self.compressed
        first, second = (cost(model, shapes=Shapes(model, feed)) for model in models)
        return first, second

    def _layers(
        self, base: Model, kept: StoredWeights, macs: int, error: float, progress: Progress
    ) -> Contributions:
        told, models = _about(progress, "layers"), (base, self.compressed)
        return layers.contributions(models, kept.pairs, self.reference, macs, error, told)


def _weights(model: Model) -> frozenset[bytes]:
    """The stored floats, whatever they are called; copies of a model share bytes of large ones."""
    found = set()
    for graph in model.graphs():
        for _, tensor in model.stored(graph):
            if type_name(tensor.data_type).endswith(("FLOAT", "FLOAT16", "DOUBLE")):
                found.add(without(tensor, {"name", "doc_string"}).SerializeToString())
    return frozenset(found)


def _near(found: StoredWeights) -> bool:
    """Whether weights look like those that they were compared with."""
    suspect = any(finding.severity == Severity.SUSPECT for finding in found.findings)
    return not suspect and all(weight.error < _UNLIKE for weight in found.weights)


def _distance(found: StoredWeights) -> float:
    return sum(min(weight.error, 2.0) for weight in found.weights) + 2.0 * len(found.unmatched)


def _about(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


class _Found:
    """What went wrong on the way."""

    def __init__(self, subject: Subject, progress: Progress) -> None:
        self.extra: list[Finding] = []
        if not fits(subject.compressed):
            text = "run in pieces: what the runtime really executes was not looked at"
            self.extra.append(Finding("executed", Severity.NOTE, "", text))
        self._progress = progress

    def guarded(self, level: str, look: Callable[[], T]) -> T | None:
        """What `look` gives; a finding where it fails."""
        self._progress(level, 0, 0)
        try:
            return look()
        except (CancelledError, TooLongError, OutputError):
            raise
        except CompressError as error:
            self.extra.append(Finding(level, Severity.WRONG, error.where, error.message))
            return None
