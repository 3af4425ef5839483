"""Desired against actual, for one kind of kernel object, with the difference always at hand.

Goals, in order:
1. A change costs O(1), and an unchanged world costs nothing to ask about.
2. The answer depends on desired and actual alone, never on the order in which they came about.
3. What was refused is not tried again until somebody wants something else.

Pure. It refuses to know what its keys mean; the order of ops is the business of the planners.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeVar


class _Absent(Enum):
    """The type of `ABSENT`, so that a type checker can tell it from a value that is None."""

    ABSENT = "absent"


Absent = Literal[_Absent.ABSENT]
#: The kernel does not have it.
ABSENT: Final = _Absent.ABSENT

#: A hashable with an order: keys are strings and tuples.
K = TypeVar("K", bound=Any)
V = TypeVar("V")


class Delta(Generic[K, V]):
    """What is wanted, what is there, and the difference.

    Shape: both are value per key; a key is pending when the two differ and it is not parked.
    Owner: the one task that owns the driver.
    """

    __slots__ = ("_actual", "_desired", "_parked", "_removals", "_sets")

    def __init__(self) -> None:
        """Begin with nothing wanted and nothing there."""
        self._desired: dict[K, V] = {}
        self._actual: dict[K, V] = {}
        self._sets: set[K] = set()
        self._removals: set[K] = set()
        self._parked: dict[K, str] = {}

    @property
    def desired(self) -> Mapping[K, V]:
        """What is wanted; to be read, not changed."""
        return self._desired

    @property
    def actual(self) -> Mapping[K, V]:
        """What the kernel holds, as far as we know; to be read, not changed."""
        return self._actual

    @property
    def parked(self) -> Mapping[K, str]:
        """The keys that were refused and still differ, each with the reason; to be read, not changed."""
        return self._parked

    def __bool__(self) -> bool:
        """Say whether anything is pending, in O(1)."""
        return bool(self._sets or self._removals)

    def __len__(self) -> int:
        """Count what is pending, in O(1)."""
        return len(self._sets) + len(self._removals)

    def set_desired(self, key: K, value: V) -> None:
        """Want this value at this key."""
        if self._parked and self._desired.get(key, ABSENT) != value:
            self._parked.pop(key, None)
        self._desired[key] = value
        self._compare(key, value, self._actual.get(key, ABSENT))

    def remove_desired(self, key: K) -> None:
        """Want the key gone; harmless when nobody wanted it."""
        if self._desired.pop(key, ABSENT) is not ABSENT:
            self._parked.pop(key, None)
            self._compare(key, ABSENT, self._actual.get(key, ABSENT))

    def mark_actual(self, key: K, value: V | Absent) -> None:
        """Note what the kernel now holds at this key, after an op was done."""
        if value is ABSENT:
            self._actual.pop(key, None)
        else:
            self._actual[key] = value
        self._compare(key, self._desired.get(key, ABSENT), value)

    def replace_actual(self, actual: Mapping[K, V]) -> None:
        """Take a fresh reading of the kernel for the whole truth.

        What is parked stays parked unless the reading already shows what is wanted.

        Cost: O(n) in both sides.
        """
        self._actual = dict(actual)
        desired = self._desired
        self._sets = {k for k, v in desired.items() if self._actual.get(k, ABSENT) != v}
        self._removals = {k for k in self._actual if k not in desired}
        differ = self._sets | self._removals
        self._parked = {key: why for key, why in self._parked.items() if key in differ}
        self._sets -= self._parked.keys()
        self._removals -= self._parked.keys()

    def park(self, key: K, reason: str = "") -> None:
        """Leave the key out of pending until its desired value changes, because it was refused."""
        if key in self._sets or key in self._removals:
            self._parked[key] = reason
            self._sets.discard(key)
            self._removals.discard(key)

    def unpark_all(self) -> None:
        """Let everything that was refused be tried once more; for a slow periodic refresh."""
        parked, self._parked = self._parked, {}
        for key in parked:
            self._compare(key, self._desired.get(key, ABSENT), self._actual.get(key, ABSENT))

    def pending_sets(self) -> list[tuple[K, V]]:
        """List what must be set, with its desired value, in the order of the keys."""
        desired = self._desired
        return [(key, desired[key]) for key in sorted(self._sets)]

    def pending_removals(self) -> list[tuple[K, V]]:
        """List what must go, with the value it has now, in the order of the keys."""
        actual = self._actual
        return [(key, actual[key]) for key in sorted(self._removals)]

    def __iter__(self) -> Iterator[K]:
        """Walk the pending keys in order: sets, then removals."""
        yield from sorted(self._sets)
        yield from sorted(self._removals)

    def _compare(self, key: K, wanted: V | Absent, held: V | Absent) -> None:
        """Put one key where it belongs."""
        if wanted == held:
            _settle(self._sets, key)
            _settle(self._removals, key)
            self._parked.pop(key, None)
        elif key in self._parked:
            return
        elif wanted is ABSENT:
            self._sets.discard(key)
            self._removals.add(key)
        else:
            self._sets.add(key)
            self._removals.discard(key)


def _settle(pending: set[K], key: K) -> None:
    """Take out a key; an emptied set would keep the table it once needed, and each plan would walk all of it."""
    pending.discard(key)
    if not pending:
        pending.clear()
