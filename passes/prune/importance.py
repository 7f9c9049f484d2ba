"""Importance: how much the outputs of consumers change when channels go.

With data    loss of the columns S of W, made up for as well as possible by the others and the bias
             L(S) = tr(W_S [C^-1_SS]^-1 W_ST) / tr(W C WT)      C: covariance of the inputs
Without      share of the squares of all weights that a channel has a part in

Channels of a group are ordered by their own L; L of the first k of them, for all k, then comes from
one Cholesky factorization. Sources: OBS; OBSPA (2403.18955); DepGraph (2301.12900).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.analysis.channels import Channels, Group
from onnx_compress.ir.graph.elements import Array
from onnx_compress.passes.prune.consumers import Consumer
from onnx_compress.passes.solvers.loss import damped
from onnx_compress.passes.solvers.structured import group_scores
from onnx_compress.passes.statistics.covariance import Covariances

_DAMPING = 0.5  # of the mean variance, with as many samples as channels
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
    shares: dict[Group, list[_Share]] = {}
    owners = _owners(channels)
    for reader in readers:
        wanted = [group for group in channels.groups if _touches(owners, group, reader)]
        if not wanted:
            continue
        problem = _Problem(reader, seen[reader])
        for group in wanted:
            shares.setdefault(group, []).append(_Share(problem, group))
    found = []
    for group, parts in shares.items():
        scores = np.sum([part.scores() for part in parts], axis=0)
        order = np.argsort(scores, kind="stable")
        losses = np.sum([part.curve(order) for part in parts], axis=0)
        found.append(Ranking(group, order, losses))
    return found


def _owners(channels: Channels) -> dict[Group, set[int]]:
    return {group: {int(c) for m in group.members for c in m} for group in channels.groups}


def _touches(owners: dict[Group, set[int]], group: Group, reader: Consumer) -> bool:
    return not owners[group].isdisjoint(reader.channels.tolist())


class _Problem:
    """One consumer: W and the inverse of C."""

    def __init__(self, reader: Consumer, seen: Covariances) -> None:
        self.channels, self.weight = reader.channels, reader.matrix()
        self.diagonal = seen.matrix.ndim == 1
        # what never varies costs nothing: the bias takes it over
        self.variances = np.maximum(seen.variances, 0)
        if self.diagonal:
            power = float(((self.weight**2) @ self.variances).sum())
            self.moment: Array = self.variances
        else:
            power = float(np.einsum("rk,rk->", self.weight @ seen.matrix, self.weight))
            self.moment = _regular(seen)
            self.inverse = np.linalg.inv(self.moment)
        self.power = max(power, 1e-30)


def _regular(seen: Covariances) -> Array:
    """Fit to be inverted: dead channels get a variance of next to nothing."""
    # positions of one sample are alike; what the data do not tell is taken for uncorrelated, and
    # what few samples hardly show may matter elsewhere
    known = max(min(seen.rows, seen.samples * _INDEPENDENT), 1)
    found = damped(seen.matrix, _DAMPING * len(seen.matrix) / known)
    share = known / (known + len(found))
    found = share * found + (1 - share) * np.diag(np.diagonal(found))
    dead = seen.variances <= 0
    found[dead, dead] = 1e-12 * max(float(seen.variances.mean()), 1e-30)
    return found


class _Share:
    """What one group is to one consumer."""

    def __init__(self, problem: _Problem, group: Group) -> None:
        self.problem = problem
        place: dict[int, list[int]] = {}
        for at, channel in enumerate(problem.channels.tolist()):
            place.setdefault(channel, []).append(at)
        self.members = [
            np.array([at for c in member.tolist() for at in place.get(c, ())], np.int64)
            for member in group.members
        ]

    def scores(self) -> Array:
        """Of each member alone."""
        p = self.problem
        if p.diagonal:
            own = (p.weight**2).sum(0) * p.variances
            return np.array([own[member].sum() for member in self.members]) / p.power
        return group_scores_of(p.weight, p.inverse, self.members) / p.power

    def curve(self, order: Array) -> Array:
        """Of the first k members in this order, k = 0, 1, ..."""
        p = self.problem
        places = [self.members[at] for at in order]
        ends = np.cumsum([0, *map(len, places)])
        flat = np.concatenate(places) if places else np.zeros(0, np.int64)
        if p.diagonal:
            own = ((p.weight[:, flat] ** 2).sum(0) * p.variances[flat]) / p.power
        else:
            from scipy.linalg import cholesky, solve_triangular

            part = p.inverse[np.ix_(flat, flat)]
            lower = cholesky((part + part.T) / 2, lower=True)
            own = (solve_triangular(lower, p.weight[:, flat].T, lower=True) ** 2).sum(1) / p.power
        return np.concatenate([[0.0], np.cumsum(own)])[ends]


def group_scores_of(weight: Array, inverse: Array, members: Sequence[Array]) -> Array:
    """As `solvers.structured.group_scores`; at once where a member is one column."""
    if all(len(member) == 1 for member in members):
        at = np.concatenate(members)
        return np.asarray((weight[:, at] ** 2).sum(0) / np.diagonal(inverse)[at])
    if not members or not any(map(len, members)):
        return np.zeros(len(members))
    return group_scores(weight, np.linalg.inv(inverse), members)


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
