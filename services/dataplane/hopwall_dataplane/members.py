"""A bucketed set of addresses on the receiving side: pieces in, what was added and removed out.

Pure. Source: `hopwall_model.buckets` for which member is in which bucket.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopwall_model.buckets import bucket_of


@dataclass(slots=True)
class BucketedMembers:
    """What is held of one set, bucket by bucket, and what changed since the last `settle`.

    Shape: `_suspects` are members whose presence must be looked at again when the step is complete.
    """

    n_buckets: int = 1
    dropped: bool = False
    _buckets: dict[int, frozenset[str]] = field(default_factory=dict)
    _settled: set[str] = field(default_factory=set)
    _suspects: set[str] = field(default_factory=set)
    _again: bool = False

    @property
    def is_whole(self) -> bool:
        """Tell whether all buckets are here."""
        return len(self._buckets) == self.n_buckets

    def holds(self, member: str) -> bool:
        """Tell whether this very member is held."""
        return member in self._buckets.get(bucket_of(member, self.n_buckets), ())

    def put(self, n_buckets: int, bucket: int, members: Iterable[str]) -> None:
        """Take the full content of one bucket; another number of buckets voids those held."""
        if n_buckets != self.n_buckets:
            self.void()
            self.n_buckets = n_buckets
        self.dropped = False
        fresh = frozenset(members)
        self._suspects |= fresh ^ self._buckets.get(bucket, frozenset())
        self._buckets[bucket] = fresh

    def void(self) -> None:
        """Take nothing for granted that is held: what is not put again before `settle` is gone."""
        self._suspects |= self._settled
        self._buckets = {}

    def drop(self) -> None:
        """Take the whole set for gone, unless something is put before `settle`."""
        self.void()
        self.dropped = True

    def touch_all(self) -> None:
        """Report every member as added at the next `settle`: something all share has changed."""
        self._again = True

    def settle(self) -> tuple[list[str], list[str]]:
        """Return what was added and what was removed since the last time, each sorted.

        Cost: O(members of the buckets that were put).
        """
        if self._again:
            self._suspects |= {m for bucket in self._buckets.values() for m in bucket}
        added, removed = [], []
        for member in sorted(self._suspects):
            present = member in self._buckets.get(bucket_of(member, self.n_buckets), ())
            if present and (self._again or member not in self._settled):
                added.append(member)
                self._settled.add(member)
            elif not present and member in self._settled:
                removed.append(member)
                self._settled.discard(member)
        self._suspects = set()
        self._again = False
        return added, removed
