"""Whether the stream that is followed now is the one that was followed before, with all it held.

Pure. A stream may be recreated, exchanged for another server's, or come back without its tail (a power cut, an
older copy of the store). A lost tail mints nothing and re-uses sequence numbers, so numbers alone do not tell;
the time at which the server stored the last message that was seen does.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last message that was seen: its sequence, and when the server stored it (µs since 1970)."""

    revision: int
    stored_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a stream shows of itself at one moment.

    Shape: `store` is the id minted with the stream, "" for one of before ids; `at_anchor` is when the message with
           the anchor's sequence was stored, None when there is none.
    """

    store: str
    created: str
    last_revision: int
    at_anchor: int | None


class History:
    """What one process has seen of the stream. `id` is another one after every doubt about it."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.store = ""
        self.anchor: Anchor | None = None
        #: When what was followed was surely the stream: its last word, a heartbeat too, on the monotonic clock.
        self.heard_at = 0.0
        self._created = ""
        self._n = 0

    @property
    def id(self) -> str:
        """The name of this history: equal names, equal past."""
        return f"{self.store}/{self._created}/{self._n}"

    def note(self, revision: int, stored_at: int) -> None:
        """Take in that this message was delivered."""
        self.anchor = Anchor(revision, stored_at)

    def resume(self, seen: Sighting) -> str:
        """Go on with the stream that is there; return why it is another history, "" when it is the same.

        An anchor that is gone proves nothing, so it is a doubt: 64 later writes of one resource may have pushed it
        out, and so may a lost tail. A new history costs a comparison; a wrong one costs the truth.
        """
        reason = self._difference(seen) if self._created else ""
        if not reason and self.anchor is not None and seen.at_anchor is None:
            reason = f"its message {self.anchor.revision}, the last one seen, is gone"
        if reason:
            self._n += 1
            self.anchor = None
        self.store, self._created = seen.store, seen.created
        return reason

    def audit(self, seen: Sighting) -> str:
        """Compare while following; return what must not be, "" when all is well."""
        reason = self._difference(seen)
        anchor = self.anchor
        newest = anchor is not None and anchor.revision == seen.last_revision
        if not reason and newest and seen.at_anchor is None:
            return f"its newest message {seen.last_revision} was taken away"
        return reason

    def _difference(self, seen: Sighting) -> str:
        if (seen.store, seen.created) != (self.store, self._created):
            return (
                f"it is store {seen.store or 'without an id'} of {seen.created}, and was store"
                f" {self.store or 'without an id'} of {self._created}"
            )
        anchor = self.anchor
        if anchor is None:
            return ""
        if seen.last_revision < anchor.revision:
            return (
                f"it ends at {seen.last_revision}, and was at {anchor.revision}: its tail is lost"
            )
        if seen.at_anchor not in (None, anchor.stored_at):
            return f"its message {anchor.revision} is not the one seen before: its tail was lost"
        return ""
