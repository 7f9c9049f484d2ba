"""Gains: how much of an error in what some weights give arrives at the outputs of the model.

    x -> x * m + c        m = 0, c = E[x] on some channels of a group; what changes at the outputs

The gain of a group is the relative squared error of the worst output, or what its parts lose on
average (`Quality`), over the loss that the consumers of the group have by it. Losses times gains
can be compared across a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_compress.ir.analysis.channels import Channels, Twins
from onnx_compress.ir.graph import Value, clone
from onnx_compress.ir.graph.added_inputs import add_input
from onnx_compress.ir.graph.elements import Array
from onnx_compress.ir.runtime import Feed, open_session
from onnx_compress.passes.prune.consumers import Consumer
from onnx_compress.passes.prune.importance import Ranking
from onnx_compress.passes.statistics.covariance import Covariances
from onnx_compress.passes.verify.quality import WIDEST, Tally

_SAMPLES = 3
_SHARES = (0.25, 0.5, 0.75, 1.0)  # of a group, for the experiment: the first that is felt
_FELT = 1e-4  # loss from which on something is learnt; dead channels, which have none, go first
_LEAST = 1e-4  # of the largest gain; a measured one may be nothing by chance


def with_gains(
    channels: Channels,
    rankings: Sequence[Ranking],
    readers: Sequence[Consumer],
    seen: dict[Consumer, Covariances],
    feeds: Sequence[Feed],
) -> list[Ranking]:
    """The same rankings with losses as they arrive at the outputs."""
    probe = _Probe(channels, readers, seen, feeds[:_SAMPLES])
    found = np.array([probe.gain(ranking) for ranking in rankings])
    found = np.maximum(found, _LEAST * max(found.max(initial=0.0), 1e-30))
    return [
        replace(ranking, losses=ranking.losses * gain)
        for ranking, gain in zip(rankings, found.tolist(), strict=True)
    ]


class _Probe:
    """The model with a switch at each value that consumers read."""

    def __init__(
        self,
        channels: Channels,
        readers: Sequence[Consumer],
        seen: dict[Consumer, Covariances],
        feeds: Sequence[Feed],
    ) -> None:
        self._channels, self._feeds = channels, feeds
        self._problems = [_Local(reader, seen[reader]) for reader in readers]
        model = clone(channels.model)
        twins = Twins(channels.model, model)
        self._switches: dict[Value, tuple[str, str, Consumer, int]] = {}
        for reader in readers:
            tap, axis = reader.tap
            source = tap.node.input(tap.slot)
            if tap.made or source is None:
                continue
            node = twins.node[tap.node]
            value = node.input(tap.slot)
            shape = channels.axes.shapes.shape(source)
            known = channels.axes.shapes.types.get(source)
            if source in self._switches or value is None or shape is None or known is None:
                continue
            if known.element not in _DTYPES:  # of a custom operator, which tells no type
                continue
            scale, shift = (add_input(model, stem, known.element) for stem in ("keep", "mean"))
            scaled = model.add_node(model.graph, "Mul", [value, scale])
            moved = model.add_node(model.graph, "Add", [scaled, shift])
            reading = [twins.node[n] for n, _ in source.uses if n.graph is channels.model.graph]
            product = scaled.producer
            for user in reading:
                for slot, read in enumerate(user.inputs):
                    if read is value and user is not product:
                        model.set_input(user, slot, moved)
            place = axis % len(shape) - len(shape)
            self._switches[source] = (scale.name, shift.name, reader, place)
        self._session = open_session(model, len(feeds))
        self._means = {source: seen[entry[2]].mean for source, entry in self._switches.items()}
        self._given = [_Output.of(runs) for runs in zip(*self._run(None), strict=True)]

    def gain(self, ranking: Ranking) -> float:
        """Of one group."""
        for share in _SHARES:
            count = max(1, int(ranking.group.size * share))
            gone = self._channels.removed(*ranking.first(count))
            expected = sum(problem.loss(gone) for problem in self._problems)
            if expected > _FELT:
                break
        changed = zip(*self._run(gone), strict=True)
        errors = [one.error(runs) for one, runs in zip(self._given, changed, strict=True) if one]
        return max(errors, default=0.0) / max(expected, 1e-12)

    def _run(self, gone: Array | None) -> list[list[Any]]:
        """What it gives on each sample."""
        extra = {}
        for source, (scale, shift, reader, place) in self._switches.items():
            off = np.zeros(len(reader.channels), bool) if gone is None else gone[reader.channels]
            shape = [-1] + [1] * (-place - 1)
            known = self._channels.axes.shapes.types[source]
            dtype = _DTYPES[known.element]
            extra[scale] = (~off).astype(dtype).reshape(shape)
            extra[shift] = np.where(off, self._means[source], 0).astype(dtype).reshape(shape)
        return list(self._session.run_all([{**feed, **extra} for feed in self._feeds]))


_DTYPES: dict[int, Any] = {1: np.float32, 10: np.float16, 11: np.float64}


class _Local:
    """The loss of one consumer where channels are put at their means, and nothing makes up."""

    def __init__(self, reader: Consumer, seen: Covariances) -> None:
        self.channels, self.seen = reader.channels, seen
        weight = reader.matrix()
        if seen.matrix.ndim == 1:
            self.inner: Array = (weight**2).sum(0)
            self.power = float(self.inner @ seen.matrix)
        else:
            self.inner = weight.T @ weight
            self.power = float((self.inner * seen.matrix).sum())

    def loss(self, gone: Array) -> float:
        """Relative squared error of what it gives."""
        at = np.flatnonzero(gone[self.channels])
        if not len(at):
            return 0.0
        if self.inner.ndim == 1:
            own = float(self.inner[at] @ self.seen.matrix[at])
        else:
            square = np.ix_(at, at)
            own = float((self.inner[square] * self.seen.matrix[square]).sum())
        return own / max(self.power, 1e-30)


@dataclass(frozen=True)
class _Output:
    """What one float output is on all samples; `power`: sum of squares, centred."""

    runs: Sequence[Array]
    power: float

    @staticmethod
    def of(runs: Sequence[Any]) -> "_Output | None":
        arrays = [np.asarray(run) for run in runs]
        if any(array.dtype.kind != "f" for array in arrays):
            return None
        count = sum(array.size for array in arrays)
        mean = sum(float(array.sum(dtype=np.float64)) for array in arrays) / max(count, 1)
        power = sum(float(((a.astype(np.float64) - mean) ** 2).sum()) for a in arrays)
        return _Output(arrays, power)

    def error(self, runs: Sequence[Any]) -> float:
        """Relative squared error, or what parts lose if that is more; 0 of nothing to compare."""
        tally = Tally("", widest=WIDEST)
        for one, other in zip(self.runs, runs, strict=True):
            tally.add(one, other)
        if tally.broken:
            return 0.0
        return max(tally.noise / max(self.power, 1e-30), tally.result().lost)
