"""Several owners may claim one thing; who has it depends on the claims alone, not on who came first.

Pure.
"""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

K = TypeVar("K")
#: Owners have an order; the lowest one wins.
Owner = TypeVar("Owner", bound=Any)
V = TypeVar("V")


class Claims(Generic[K, Owner, V]):
    """Values claimed per key, by owner."""

    __slots__ = ("_claims",)

    def __init__(self) -> None:
        """Begin with no claims."""
        self._claims: dict[K, dict[Owner, V]] = {}

    def put(self, key: K, owner: Owner, value: V) -> None:
        """Make, or change, an owner's claim."""
        self._claims.setdefault(key, {})[owner] = value

    def drop(self, key: K, owner: Owner) -> None:
        """Withdraw an owner's claim; harmless without one."""
        held = self._claims.get(key)
        if held is not None:
            held.pop(owner, None)
            if not held:
                del self._claims[key]

    def __contains__(self, key: K) -> bool:
        """Tell whether anybody claims it."""
        return key in self._claims

    def values(self, key: K) -> Iterable[V]:
        """Return what all claim."""
        return self._claims.get(key, {}).values()

    def winner(self, key: K) -> V | None:
        """Return what the lowest owner claims; None when nobody does."""
        held = self._claims.get(key)
        return held[min(held)] if held else None
