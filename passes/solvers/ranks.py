"""Ranks of several weights together: the least loss that a budget allows.

    minimise sum_l loss_l(r_l)  with  sum_l cost_l(r_l) <= budget

    loss_l(r)   what is left of the spectrum behind r; 0 for the weight as it is
    cost_l(r)   r * (R + K), in whatever unit, at most R * K: then the weight stays as it is

A price on cost is sought by bisection: at a price each weight chooses for itself (Lagrangian
relaxation of the multiple-choice knapsack, Everett 1963; for ranks, SVD-LLM and its relatives).
What is left of the budget goes to whatever gains most for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Choices:
    """One weight. `spectrum`: falling, from `lowrank.spectrum`, times what it counts for; `step`:
    cost of one rank; `whole`: cost of the weight as it is."""

    spectrum: Array
    step: float
    whole: float

    def table(self) -> tuple[Array, Array]:
        """Losses and costs of rank 0, 1, ..., and last of the weight as it is."""
        values = np.asarray(self.spectrum, np.float64)
        left = np.append(np.cumsum(values[::-1])[::-1], 0.0)
        costs = self.step * np.arange(len(left))
        useful = costs < self.whole
        return np.append(left[useful], 0.0), np.append(costs[useful], self.whole)


def choose_ranks(weights: Sequence[Choices], budget: float) -> list[int | None]:
    """A rank for each weight; None: it stays as it is. Rank 0 of all if there is no budget."""
    tables = [weight.table() for weight in weights]

    def chosen(price: float) -> list[int]:
        return [int((losses + price * costs).argmin()) for losses, costs in tables]

    def total(choice: Sequence[int]) -> float:
        return float(sum(costs[at] for (_, costs), at in zip(tables, choice, strict=True)))

    low, high = 0.0, max((float(losses[0]) for losses, _ in tables), default=0.0) + 1.0
    high /= min((weight.step for weight in weights), default=1.0)
    best = chosen(low)
    if total(best) > budget:
        best = [0] * len(tables)
        for _ in range(100):
            price = (low + high) / 2
            found = chosen(price)
            if total(found) <= budget:
                best, high = found, price
            else:
                low = price
    best = _filled(tables, best, budget)
    return [
        None if at == len(losses) - 1 else at for (losses, _), at in zip(tables, best, strict=True)
    ]


def _filled(tables: Sequence[tuple[Array, Array]], chosen: list[int], budget: float) -> list[int]:
    """Greedily whatever gains most for its cost, until nothing fits."""
    chosen = list(chosen)
    left = budget - sum(float(costs[at]) for (_, costs), at in zip(tables, chosen, strict=True))
    while True:
        best, gain = None, 0.0
        for index, (losses, costs) in enumerate(tables):
            at = chosen[index]
            more = costs - costs[at]
            fits = (more > 0) & (more <= left)
            if not fits.any():
                continue
            gains = np.where(fits, (losses[at] - losses) / np.where(fits, more, 1.0), -np.inf)
            if gains.max() > gain:
                best, gain = (index, int(gains.argmax())), float(gains.max())
        if best is None:
            return chosen
        index, at = best
        left -= float(tables[index][1][at] - tables[index][1][chosen[index]])
        chosen[index] = at
