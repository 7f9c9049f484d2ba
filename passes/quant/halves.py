"""Where an error comes from, by halves: a half that makes little of it is not looked into.

{a b c d}  .40   ->   {a b}  .01    {c} .01    {d} .39
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

HELD = 4  # samples that are enough for it
Item = TypeVar("Item")
Part = tuple[Sequence[Item], float]  # items, and the error^2 with these alone


def looked_into(
    square: Callable[[Sequence[Item]], float], parts: Sequence[Part[Item]], least: float
) -> list[Part[Item]]:
    """The same items, halved until a part makes less error^2 than `least`, or is one item.

    `square`: measures the error^2 with some items alone.
    """
    done: list[Part[Item]] = []
    todo = list(parts)
    while todo:
        part, found = todo.pop()
        if found < least or len(part) == 1:
            done.append((part, found))
            continue
        half = len(part) // 2
        todo += [(side, square(side)) for side in (part[:half], part[half:])]
    return done
