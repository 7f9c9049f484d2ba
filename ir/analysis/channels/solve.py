"""From what is said of ids to channels, and to the smallest sets that can go together.

    ids that are the same               ->  one channel
    flat (p, q) of a grid               ->  goes if row p goes or column q goes

Where all but one axis of a grid stay, its positions are those of that axis. Where two could go
(heads, and numbers in each head), a set is closed: with a row all of its positions go, and a
position goes with its row or its column.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnx_compress.ir.analysis.channels.axes import Axes, Grid
from onnx_compress.ir.graph.elements import Array

_LARGEST = 100_000  # channels in one set


@dataclass(eq=False)
class Solution:
    """`channel` [ids]: which channel an id is; `stays` [channels]; `why` [channels]: a reason.

    `grids`: those of which two axes could go.
    """

    channel: Array
    stays: Array
    why: Array
    reasons: list[str]
    grids: list[Grid] = field(default_factory=list)

    def reason(self, channel: int) -> str:
        """Why a channel stays."""
        return self.reasons[int(self.why[channel])]


def solve(axes: Axes) -> Solution:
    """Join what is the same until nothing changes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    reasons = ["the only position of an axis"]
    held = [np.zeros(1, np.int64)]
    because = [np.zeros(1, np.int64)]
    places: dict[str, int] = {}
    for ids, reason in axes.stays:
        at = places.setdefault(reason, len(places) + 1)
        held.append(ids)
        because.append(np.full(len(ids), at))
    reasons += list(places)
    equal = list(axes.equal)
    while True:
        one, other = (
            np.concatenate([np.zeros(1, np.int64), *(pair[side] for pair in equal)])
            for side in (0, 1)
        )
        edges = coo_array((np.ones(len(one), bool), (one, other)), (axes.count, axes.count))
        count, channel = connected_components(edges, directed=False)
        stays, why = np.zeros(count, bool), np.zeros(count, np.int64)
        places_held, numbers = np.concatenate(held), np.concatenate(because)
        # written in reverse, so that the first reason is the one that is told
        why[channel[places_held[::-1]]] = numbers[::-1]
        stays[channel[places_held]] = True
        found = Solution(channel, stays, why, reasons)
        joined = _through_grids(axes.grids, found)
        if not joined:
            return found
        equal += joined
        fresh = np.flatnonzero(stays[channel])
        held, because = [np.zeros(1, np.int64), fresh], [np.zeros(1, np.int64), why[channel[fresh]]]


def _through_grids(grids: Sequence[Grid], found: Solution) -> list[tuple[Array, Array]]:
    """Spread what stays through the grids; then what is the same because the rest stays."""
    channel, stays, why = found.channel, found.stays, found.why
    changed = True
    while changed:
        changed = False
        for grid in grids:
            flat = channel[grid.flat].reshape([len(factor) for factor in grid.factors])
            factors = [channel[factor] for factor in grid.factors]
            for axis, own in enumerate(factors):
                lines = np.moveaxis(flat, axis, 0).reshape(len(own), -1)
                forced = stays[lines].any(axis=1) & ~stays[own]
                if forced.any():
                    first = np.take_along_axis(lines, stays[lines].argmax(1)[:, None], 1)[:, 0]
                    why[own[forced]] = why[first[forced]]
                    stays[own[forced]] = True
                    changed = True
            all_stay = _outer([stays[own] for own in factors])
            fresh = all_stay & ~stays[flat]
            if fresh.any():
                why[flat[fresh]] = why[factors[0][np.nonzero(fresh)[0]]]
                stays[flat[fresh]] = True
                changed = True
    joined: list[tuple[Array, Array]] = []
    found.grids = []
    for grid in grids:
        loose = [at for at, f in enumerate(grid.factors) if not stays[channel[f]].all()]
        if len(loose) > 1:
            found.grids.append(grid)
        elif loose:
            shape = [len(factor) for factor in grid.factors]
            own = grid.factors[loose[0]]
            spread = np.broadcast_to(
                own.reshape([-1 if at == loose[0] else 1 for at in range(len(shape))]), shape
            ).reshape(-1)
            kept = ~stays[channel[spread]] & (channel[spread] != channel[grid.flat])
            if kept.any():
                joined.append((spread[kept], grid.flat[kept]))
    return joined


def _outer(parts: list[Array]) -> Array:
    out = parts[0]
    for part in parts[1:]:
        out = out[..., None] & part
    return np.asarray(out)


class Closure:
    """Sets of channels that can go together."""

    def __init__(self, found: Solution) -> None:
        self.found = found
        self.grids = [
            (
                found.channel[grid.flat].reshape([len(factor) for factor in grid.factors]),
                [found.channel[factor] for factor in grid.factors],
            )
            for grid in found.grids
        ]
        self._as_factor: dict[int, list[tuple[int, int, int]]] = {}
        self._as_flat: dict[int, list[int]] = {}
        for at, (flat, factors) in enumerate(self.grids):
            for axis, own in enumerate(factors):
                for place, channel in enumerate(own.tolist()):
                    self._as_factor.setdefault(channel, []).append((at, axis, place))
            for channel in np.unique(flat).tolist():
                self._as_flat.setdefault(channel, []).append(at)

    @property
    def seeds(self) -> list[int]:
        """Rows and columns of grids that may go."""
        return [channel for channel in self._as_factor if not self.found.stays[channel]]

    @cached_property
    def within(self) -> set[int]:
        """All channels that have to do with a grid."""
        return set(self._as_factor) | set(self._as_flat)

    def of(self, seed: int, depth: int = 3) -> Array | None:
        """The smallest closed set that a channel is in; None if there is none."""
        return self._closed({seed}, [seed], depth)

    def _closed(self, chosen: set[int], todo: list[int], depth: int) -> Array | None:
        stays = self.found.stays
        touched: dict[int, None] = {}
        while todo:
            channel = todo.pop()
            if stays[channel] or len(chosen) > _LARGEST:
                return None
            for at, axis, place in self._as_factor.get(channel, ()):
                line = np.take(self.grids[at][0], place, axis).reshape(-1)
                fresh = set(line.tolist()) - chosen
                chosen |= fresh
                todo += fresh
            touched |= dict.fromkeys(self._as_flat.get(channel, ()))
        members = np.fromiter(chosen, np.int64)
        for at in touched:
            flat, factors = self.grids[at]
            gone = np.isin(flat, members)
            covered = ~_outer([~np.isin(own, members) for own in factors])
            open_ = gone & ~covered
            if not open_.any():
                continue
            if not depth:
                return None
            ways = []
            for axis, own in enumerate(factors):
                places = np.unique(np.nonzero(open_)[axis])
                more = set(own[places].tolist())
                ways.append(self._closed(chosen | more, list(more), depth - 1))
            fit = [way for way in ways if way is not None]
            return min(fit, key=len) if fit else None
        return np.sort(members)
