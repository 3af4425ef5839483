"""A counted set of addresses that knows which of its buckets changed.

The same address may come from several sources; it stays until the last one is gone.
"""

from collections import Counter
from collections.abc import Iterable

from hopwall_model.buckets import bucket_of, buckets_for


class Members:
    """Addresses, cut into buckets for sending.

    Cost: one change is O(1); `dirty_buckets` is O(changes), or O(members) when the cut changes.
    """

    __slots__ = ("_buckets", "_more", "_touched", "n_members")

    def __init__(self, members: Iterable[str] = ()) -> None:
        self._buckets: list[set[str]] = [set()]
        #: How many sources beyond the first an address has.
        self._more: dict[str, int] = {}
        #: Address → whether it was here at the last `settle`.
        self._touched: dict[str, bool] = {}
        self.n_members = 0
        for member in members:
            self.add(member)

    @property
    def n_buckets(self) -> int:
        """How many buckets there are."""
        return len(self._buckets)

    def add(self, member: str) -> None:
        """Count one more source of the address."""
        bucket = self._buckets[bucket_of(member, len(self._buckets))]
        if member in bucket:
            self._more[member] = self._more.get(member, 0) + 1
            return
        self._touched.setdefault(member, False)
        bucket.add(member)
        self.n_members += 1

    def remove(self, member: str) -> None:
        """Count one source of the address less.

        Errors: KeyError when it has none: a broken invariant.
        """
        more = self._more.get(member, 0)
        if more > 1:
            self._more[member] = more - 1
            return
        if more == 1:
            del self._more[member]
            return
        self._buckets[bucket_of(member, len(self._buckets))].remove(member)
        self._touched.setdefault(member, True)
        self.n_members -= 1

    def replace(self, sources: Iterable[str]) -> None:
        """Count anew: one source for each time an address is given."""
        counts = Counter(sources)
        self._more = {}
        for member in self.everything() - counts.keys():
            self.remove(member)
        for member in counts:
            if member not in self:
                self.add(member)
        self._more = {member: count - 1 for member, count in counts.items() if count > 1}

    def __contains__(self, member: str) -> bool:
        return member in self._buckets[bucket_of(member, len(self._buckets))]

    def touched(self) -> bool:
        """Tell whether anything was added or removed since `settle`."""
        return bool(self._touched)

    def dirty_buckets(self) -> list[int]:
        """Return the buckets whose content changed since `settle`, in order; all after a new cut."""
        if self._cut():
            return list(range(self.n_buckets))
        dirty: set[int] = set()
        for member, was_here in self._touched.items():
            number = bucket_of(member, self.n_buckets)
            if (member in self._buckets[number]) != was_here:
                dirty.add(number)
        return sorted(dirty)

    def settle(self) -> None:
        """Forget what changed."""
        self._touched = {}

    def bucket(self, number: int) -> tuple[str, ...]:
        """Return the sorted content of one bucket."""
        return tuple(sorted(self._buckets[number]))

    def everything(self) -> frozenset[str]:
        """Return all addresses."""
        return frozenset().union(*self._buckets)

    def _cut(self) -> bool:
        wanted = buckets_for(self.n_members, self.n_buckets)
        if wanted == self.n_buckets:
            return False
        fresh: list[set[str]] = [set() for _ in range(wanted)]
        for bucket in self._buckets:
            for member in bucket:
                fresh[bucket_of(member, wanted)].add(member)
        self._buckets = fresh
        return True
