"""Allocation: how many members of each group go, for the most saved and the least error.

Greedy: what goes next is the step of a group with the least loss for what it saves. Steps leave
multiples that the target computes well. What costs nothing goes first.

    time ~ MACs + motion * numbers that operators give        motion: of the target
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np

from onnx_compress.ir.analysis.channels import Channels
from onnx_compress.ir.graph.elements import Array
from onnx_compress.passes.prune.importance import Ranking
from onnx_compress.passes.target import Target

_LEAST = 4  # channels; runtimes are slow at other multiples
_FREE = 1e-9  # loss that is none


@dataclass(frozen=True)
class Plan:
    """How many members of each ranking go, and what is saved of the whole: shares.

    `loss`: that of all groups, as their rankings expect it.
    """

    counts: tuple[int, ...]
    macs: float
    nbytes: float
    time: float
    channels: float
    loss: float


@dataclass(frozen=True)
class _Step:
    """`price`: loss for what is saved. `count`: how many members of the ranking are gone then."""

    price: float
    loss: float
    ranking: int
    count: int


def step_of(size: int, width: int, multiple: int) -> int:
    """Members that go at a time: the target's multiple, or a part of it in small groups."""
    step = multiple
    while step > _LEAST and size * width < 4 * step:
        step //= 2
    step = max(step - step % _LEAST, _LEAST)
    return 1 if width % _LEAST == 0 else step


class Allocation:
    """One run of the greedy choice."""

    def __init__(self, channels: Channels, rankings: Sequence[Ranking], target: Target) -> None:
        self.channels, self.rankings = channels, rankings
        self.multiple = target.channel_multiple
        self.counts = np.zeros(len(rankings), np.int64)
        self._costs = _Costs(channels, rankings, target.motion)

    def run(self, share: float, what: str, loss: float = inf) -> Plan:
        """Remove until `share` of `what` is saved: channels, macs, time; or nothing can go.

        Nothing goes that would bring all losses together above `loss`.
        """
        before = self._costs.of(self.counts)
        while True:
            saved = 1 - self._costs.of(self.counts) / np.maximum(before, 1e-30)
            reached = {"macs": saved[0], "time": saved[2], "channels": self._gone}[what]
            if reached >= share - 1e-9:
                break
            left = loss - self._loss
            steps = [step for step in self._steps(before, what) if step.loss <= left]
            if not steps:
                break
            best = min(steps, key=lambda step: step.price)
            self.counts[best.ranking] = best.count
        saved = 1 - self._costs.of(self.counts) / np.maximum(before, 1e-30)
        macs, nbytes, time = saved.tolist()
        return Plan(tuple(map(int, self.counts)), macs, nbytes, time, self._gone, self._loss)

    @property
    def _loss(self) -> float:
        pairs = zip(self.rankings, self.counts, strict=True)
        return sum(float(ranking.losses[count]) for ranking, count in pairs)

    @property
    def _gone(self) -> float:
        sizes = np.array([ranking.group.size for ranking in self.rankings])
        return float(self.counts.sum() / max(sizes.sum(), 1))

    def _steps(self, before: Array, what: str) -> list[_Step]:
        """Each group's next one."""
        now = self._costs.of(self.counts)
        found = []
        for at, ranking in enumerate(self.rankings):
            count = self._next(at)
            if count is None:
                continue
            trial = self.counts.copy()
            trial[at] = count
            change = (now - self._costs.of(trial)) / np.maximum(before, 1e-30)
            saved = {"macs": change[0], "time": change[2]}.get(what, change[:2].sum() / 2)
            loss = float(ranking.losses[count] - ranking.losses[self.counts[at]])
            price = max(loss, _FREE) / max(float(saved), 1e-12)
            found.append(_Step(price, loss, at, count))
        return found

    def _next(self, at: int) -> int | None:
        group = self.rankings[at].group
        step = step_of(group.size, group.width, self.multiple)
        left = group.size - int(self.counts[at])
        after = (left - 1) // step * step
        return group.size - after if after >= max(step, 1) else None


class _Costs:
    """MACs, bytes, time by the number of members gone of each group, as products of shares."""

    def __init__(self, channels: Channels, rankings: Sequence[Ranking], motion: float) -> None:
        self.channels, self.rankings = channels, rankings
        self._axes: dict[int, int] = {}
        self._arrays: list[Array] = []
        terms = list(channels.terms())
        moved = list(channels.moved())
        self._motion = motion
        self._moves = self._table([ids for _, ids in moved])
        self._move = np.array([size for size, _ in moved], np.float64)
        self._works = self._table([ids for _, ids in terms[: channels.works]])
        self._stores = self._table([ids for _, ids in terms[channels.works :]])
        self._work = np.array([size for size, _ in terms[: channels.works]], np.float64)
        self._store = np.array([size for size, _ in terms[channels.works :]], np.float64)
        # of nodes and values that have to do with no channels
        self._other_work = max(channels.all_macs() - float(self._work.sum()), 0.0)
        self._other_moves = max(channels.all_moved() - float(self._move.sum()), 0.0)

    def _table(self, rows: Sequence[Sequence[Array]]) -> Array:
        """[terms, axes]: places in the list of axes; 0: no axis."""
        width = max(map(len, rows), default=0)
        table = np.zeros((len(rows), width), np.int64)
        for at, row in enumerate(rows):
            for place, ids in enumerate(row):
                if id(ids) not in self._axes:
                    self._axes[id(ids)] = len(self._arrays) + 1
                    self._arrays.append(ids)
                table[at, place] = self._axes[id(ids)]
        return table

    @cached_property
    def _shares(self) -> Array:
        """[axes + 1, groups]: share of an axis that a member of a group takes."""
        from scipy.sparse import csr_array

        channel, count = self.channels.solution.channel, len(self.channels.solution.stays)
        places = [np.unique(channel[ids], return_counts=True) for ids in self._arrays]
        owned = [np.concatenate(ranking.group.members) for ranking in self.rankings]
        table = np.zeros((len(self._arrays) + 1, len(self.rankings)))
        if places and owned:
            rows = np.repeat(np.arange(len(places)), [len(own) for own, _ in places])
            flat = np.concatenate([own for own, _ in places])
            share = np.concatenate([n / n.sum() for _, n in places])
            axes = csr_array((share, (rows, flat)), (len(places), count))
            columns = np.repeat(np.arange(len(owned)), [len(own) for own in owned])
            ones = np.ones(len(columns))
            groups = csr_array((ones, (np.concatenate(owned), columns)), (count, len(owned)))
            sizes = np.array([ranking.group.size for ranking in self.rankings])
            table[1:] = (axes @ groups).toarray() / sizes
        return table

    def of(self, counts: Array) -> Array:
        """[MACs, bytes, time]."""
        left = np.maximum(1 - self._shares @ counts, 0)
        works = (self._work * left[self._works].prod(1)).sum() if len(self._work) else 0.0
        stores = (self._store * left[self._stores].prod(1)).sum() if len(self._store) else 0.0
        moves = (self._move * left[self._moves].prod(1)).sum() if len(self._move) else 0.0
        works += self._other_work
        time = works + self._motion * (moves + self._other_moves)
        return np.array([works, stores, time])
