"""Budget: how far a model may move away from the original, and how much of that is spent.

Errors of several passes add as squares, drops of a metric as they are.
"""

from dataclasses import dataclass
from math import hypot, sqrt

FREE = 1.01  # what adds no more than this to the error there is already may be taken


@dataclass
class Budget:
    """What may be spent by passes that choose for themselves.

    `max_drop`: of the metric; None where no metric decides.
    """

    max_error: float
    max_drop: float | None = None
    error: float = 0.0
    drop: float = 0.0

    def allowed(self, shares: int) -> float:
        """The error up to which a pass may go that is one of `shares` to come."""
        left = max(self.max_error**2 - self.error**2, 0.0)
        return max(sqrt(self.error**2 + left / shares), self.error * FREE)

    def added(self) -> float:
        """The error up to which a pass may go that adds no more than all that is allowed."""
        return hypot(self.error, self.max_error)

    def refuses(self, error: float, drop: float, allowed: float, shares: int) -> str:
        """Why a pass that is one of `shares` to come may not spend this; "" if it may."""
        if not error <= allowed:
            return f"error {error:.3g} is above {allowed:.3g}, its share"
        if self.max_drop is None:
            return ""
        most = self.drop + max(self.max_drop - self.drop, 0.0) / shares
        return "" if drop <= most else f"the metric falls by {drop:.3g}, its share is {most:.3g}"

    def spend(self, error: float, drop: float) -> None:
        """A pass has brought the model to this distance from the original."""
        self.error, self.drop = max(self.error, error), max(self.drop, drop)
