"""Importance: how much the outputs of consumers change when channels go.

With data    loss of the columns S of W, made up for as well as possible by the others and the bias
             L(S) = tr(W_S [C^-1_SS]^-1 W_ST) / tr(W C WT)      C: covariance of the inputs
Without      share of the squares of all weights that a channel has a part in

Channels of a group go one after the other, each time that of least L, after which the others have
made up for it. Sources: OBS; OBSPA (2403.18955); DepGraph (2301.12900).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_compress.ir.analysis.channels import Channels, Group
from onnx_compress.ir.graph.elements import Array
from onnx_compress.passes.prune.consumers import Consumer
from onnx_compress.passes.solvers.loss import damped
from onnx_compress.passes.solvers.parallel import workers
from onnx_compress.passes.statistics.covariance import Covariances

_DAMPING = 0.5  # of the mean variance, with as many samples as channels
_ROUNDS = 128  # in which the members of a group go
_WIDE = 1024  # columns; of more, in fewer rounds
_THREADS = 2
_INDEPENDENT = 32  # positions of a sample that count as independent


@dataclass(frozen=True, eq=False)
class Ranking:
    """Of one group: members, the least important first; `losses` [members + 1] of the first k."""

    group: Group
    order: Array
    losses: Array

    def first(self, count: int) -> list[Array]:
        """The channels of the `count` least important members."""
        return [self.group.members[at] for at in self.order[:count]]


def rank_by_data(
    channels: Channels, readers: Sequence[Consumer], seen: Mapping[Consumer, Covariances]
) -> list[Ranking]:
    """Groups that a consumer sums over, ranked by its loss."""
    owners = _owners(channels)
    touched = {
        reader: [group for group in channels.groups if _touches(owners, group, reader)]
        for reader in readers
    }
    wanted = _by_weight([reader for reader in readers if touched[reader]])
    with workers(_THREADS) as pool:
        problems = pool.map(lambda same: _Problem(same[0], [seen[one] for one in same]), wanted)
        shares: dict[Group, list[_Share]] = {}
        for same, problem in zip(wanted, problems, strict=True):
            for group in touched[same[0]]:
                shares.setdefault(group, []).append(_Share(problem, group))
        return list(pool.map(_eliminated, shares.keys(), shares.values()))


def _by_weight(readers: Sequence[Consumer]) -> list[list[Consumer]]:
    """Those that read the same weight in the same way: what makes up in one does so in all."""
    found: dict[Any, list[Consumer]] = {}
    for reader in readers:
        key = reader.weight, reader.use.layout, reader.channels.tobytes()
        found.setdefault(key, []).append(reader)
    return list(found.values())


def _owners(channels: Channels) -> dict[Group, set[int]]:
    return {group: {int(c) for m in group.members for c in m} for group in channels.groups}


def _touches(owners: dict[Group, set[int]], group: Group, reader: Consumer) -> bool:
    return not owners[group].isdisjoint(reader.channels.tolist())


class _Problem:
    """One consumer, or several of one weight: W and the inverse of C.

    C of several is the sum of theirs, each in parts of what its own outputs vary by.
    """

    def __init__(self, reader: Consumer, seen: Sequence[Covariances]) -> None:
        self.channels, weight = reader.channels, reader.matrix()
        self.diagonal = seen[0].matrix.ndim == 1
        self.gram: Array = (weight**2).sum(0) if self.diagonal else weight.T @ weight
        # what never varies costs nothing: the bias takes it over
        powers = [max(float((self.gram * _positive(one)).sum()), 1e-30) for one in seen]
        self.power = powers[0] if len(seen) == 1 else 1.0
        whole = seen[0] if len(seen) == 1 else _pooled(seen, powers)
        if self.diagonal:
            self.moment: Array = _positive(whole)
        else:
            self.moment = _regular(whole)
            self.inverse = np.linalg.inv(self.moment)


def _positive(seen: Covariances) -> Array:
    return seen.matrix if seen.matrix.ndim > 1 else np.maximum(seen.matrix, 0)


def _pooled(seen: Sequence[Covariances], powers: Sequence[float]) -> Covariances:
    matrix = np.zeros_like(seen[0].matrix)
    for one, power in zip(seen, powers, strict=True):
        matrix += one.matrix / power
    rows, samples = sum(one.rows for one in seen), max(one.samples for one in seen)
    return Covariances(matrix, seen[0].mean, rows, samples)


def _regular(seen: Covariances) -> Array:
    """Fit to be inverted: dead channels get a variance of next to nothing."""
    # positions of one sample are alike, and what few samples hardly show may matter elsewhere
    known = max(min(seen.rows, seen.samples * _INDEPENDENT), 1)
    found = damped(seen.matrix, _DAMPING * len(seen.matrix) / known)
    dead = seen.variances <= 0
    found[dead, dead] = 1e-12 * max(float(seen.variances.mean()), 1e-30)
    return found


class _Share:
    """What one group is to one consumer, while members of it go one after the other.

    Without columns S, which the others make up for: P = [C^-1_SS]^-1, K = P C^-1_S: ,
    W <- W - W_S K, C^-1 <- C^-1 - C^-1_:S K. Of W only A = WT W is kept.
    """

    def __init__(self, problem: _Problem, group: Group) -> None:
        self.power, self.diagonal = problem.power, problem.diagonal
        place: dict[int, list[int]] = {}
        for at, channel in enumerate(problem.channels.tolist()):
            place.setdefault(channel, []).append(at)
        self.members = [
            np.array([at for c in member.tolist() for at in place.get(c, ())], np.int64)
            for member in group.members
        ]
        self.width = len(problem.channels)
        self._single = all(len(member) == 1 for member in self.members)
        self._flat = np.concatenate(self.members)
        self._gram: Array = problem.gram.copy()
        self._inverse: Array = problem.moment if self.diagonal else problem.inverse.copy()

    def scores(self) -> Array:
        """Loss by each member alone, now."""
        if self.diagonal:
            own = self._gram * self._inverse
            return np.array([own[member].sum() for member in self.members]) / self.power
        if self._single:
            own = np.diagonal(self._gram)[self._flat] / np.diagonal(self._inverse)[self._flat]
            return np.asarray(own / self.power)
        return np.array([self._loss(member) for member in self.members]) / self.power

    def _loss(self, at: Array) -> float:
        square = np.ix_(at, at)
        return float(np.trace(np.linalg.solve(self._inverse[square], self._gram[square])))

    def remove(self, chosen: Sequence[int]) -> float:
        """Let members go; gives the loss by that."""
        at = np.concatenate([self.members[member] for member in chosen])
        if not len(at):
            return 0.0
        if self.diagonal:
            return float((self._gram[at] * self._inverse[at]).sum()) / self.power
        loss = self._loss(at) / self.power
        rows = self._inverse[at]
        taken = np.linalg.solve(rows[:, at], rows)  # K
        cross = self._gram[at]
        both = cross.T @ taken
        self._gram -= both + both.T - taken.T @ (cross[:, at] @ taken)
        self._inverse -= rows.T @ taken
        # what is gone must not be solved for again
        self._inverse[at], self._inverse[:, at] = 0.0, 0.0
        self._inverse[at, at], self._gram[at, at] = 1.0, 0.0
        return loss


def _eliminated(group: Group, shares: Sequence[_Share]) -> Ranking:
    """Members in the order in which they go, each the least important of what is left."""
    widest = max(share.width for share in shares)
    block = max(1, group.size // (_ROUNDS if widest <= _WIDE else _ROUNDS // 8))
    alive = np.ones(group.size, bool)
    order: list[int] = []
    losses = [0.0]
    while alive.any():
        scores = np.sum([share.scores() for share in shares], axis=0)
        scores[~alive] = np.inf
        chosen = np.argsort(scores, kind="stable")[: min(block, int(alive.sum()))].tolist()
        loss = sum(share.remove(chosen) for share in shares)
        alive[chosen] = False
        order += chosen
        losses += [losses[-1] + loss * (k + 1) / len(chosen) for k in range(len(chosen))]
    return Ranking(group, np.array(order), np.array(losses))


def rank_by_magnitude(channels: Channels) -> list[Ranking]:
    """All groups, by the squares of what goes with each member."""
    found = []
    for group in channels.groups:
        scores = np.zeros(group.size)
        for key, axis in group.axes:
            array = channels.constant(key)
            ids = channels.axes.ids[key][axis]
            if array is None or array.dtype.kind != "f" or array.ndim < 2:
                continue
            others = tuple(at for at in range(array.ndim) if at != axis)
            squares = (array.astype(np.float64) ** 2).sum(axis=others)
            by_channel = np.bincount(
                channels.solution.channel[ids], squares, len(channels.solution.stays)
            )
            own = np.array([by_channel[member].sum() for member in group.members])
            scores += own / max(float(squares.sum()), 1e-30)
        order = np.argsort(scores, kind="stable")
        found.append(Ranking(group, order, np.concatenate([[0.0], np.cumsum(scores[order])])))
    return found


def rank_at_random(channels: Channels, seed: int) -> list[Ranking]:
    """All groups in no order: what a ranking is to be better than."""
    rng = np.random.default_rng(seed)
    return [
        Ranking(group, rng.permutation(group.size), np.linspace(0, 1, group.size + 1))
        for group in channels.groups
    ]
