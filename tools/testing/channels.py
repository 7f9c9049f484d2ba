"""Channels taken out and channels masked must be the same model: for every group of a model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnx_compress.ir.analysis import Shapes
from onnx_compress.ir.analysis.channels import Channels, Group, find_channels, masked, without
from onnx_compress.ir.graph import Model, invariants
from onnx_compress.ir.runtime import Feed, open_session


@dataclass(frozen=True)
class Exactness:
    """Of one group: `error`, relative, between channels removed and masked; `effect` of masking.

    `rounding`: what the runtime's optimizer alone changes in the masked model.
    """

    group: Group
    removed: int
    error: float
    effect: float
    rounding: float


def exactness(
    model: Model, feed: Feed, share: float = 0.3, seed: int = 0, channels: Channels | None = None
) -> Iterator[Exactness]:
    """Take a random share of each group out, one group at a time."""
    channels = channels or find_channels(model, Shapes(model, feed))
    rng = np.random.default_rng(seed)
    original = open_session(model).run(feed)
    for group in channels.groups:
        count = max(1, int(group.size * share))
        chosen = rng.choice(group.size, count, replace=False)
        removed = channels.removed(*(group.members[at] for at in chosen))
        if channels.empties(removed):
            continue
        cut, mask = without(channels, removed), masked(channels, removed)
        invariants.check(cut)
        expected = open_session(mask).run(feed)
        plain = open_session(mask, optimize=False).run(feed)
        yield Exactness(
            group,
            count,
            relative(expected, open_session(cut).run(feed)),
            relative(original, expected),
            relative(expected, plain),
        )


def relative(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Largest relative difference (L2) of an output; infinity where shapes differ."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
            continue
        if a.shape != b.shape:
            return float("inf")
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        change = float(np.linalg.norm(np.where(same, 0.0, x - y)))
        worst = max(worst, change / max(float(np.linalg.norm(x[np.isfinite(x)])), 1e-30))
    return worst
