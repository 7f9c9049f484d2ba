"""Finding: one thing that a check has to say, with the name of what it is about."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad it is. `NOTE`: good to know; `WARNING`: worse than it should be, but as written."""

    NOTE = 0
    WARNING = 1
    SUSPECT = 2
    WRONG = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """`level`: which check; `where`: the weight, node or output.

    `is_limit`: it says that the error is above what was allowed, not that anything is amiss.
    """

    level: str
    severity: Severity
    where: str
    text: str
    is_limit: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


def verdict(findings: Iterable[Finding]) -> str:
    """The worst of them in a word: "sound", "suspect" or "wrong". Warnings leave it sound."""
    worst = max((finding.severity for finding in findings), default=Severity.NOTE)
    return str(worst) if worst >= Severity.SUSPECT else "sound"
