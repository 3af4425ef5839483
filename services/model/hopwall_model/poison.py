"""Which of the values that came together make a fold fail: found by trying, as nobody can be asked.

A bug that one value meets would otherwise end the service that folds it, and again at each start.
Pure. Cost: a fold of everything per trial; two for each halving around each value that fails.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def failing(changes: Sequence[T], works: Callable[[Sequence[T]], bool]) -> list[T] | None:
    """Return the changes that fail even beside only those that work; None when it fails without any of them."""
    if not works(()):
        return None
    kept: list[T] = []

    def sift(candidates: Sequence[T]) -> list[T]:
        if works((*kept, *candidates)):
            kept.extend(candidates)
            return []
        if len(candidates) == 1:
            return list(candidates)
        middle = len(candidates) // 2
        return [*sift(candidates[:middle]), *sift(candidates[middle:])]

    return sift(changes)
