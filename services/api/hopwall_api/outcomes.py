"""What became of a write, and the memory of it by Idempotency-Key.

Pure. The memory lives in this process. It also learns from the headers of the events it folds, so it knows
the writes of other replicas, and after a restart those writes that are still the last word on their resource.
A key whose every event has since been overwritten is forgotten by a restart: the same request is then
carried out again, as a new one.
"""

from collections import OrderedDict
from typing import Literal

from msgspec import Struct

from hopwall_api.intent import Word
from hopwall_api.progress import Target, target_of
from hopwall_model.resources import Key, Resource

HDR_KEY = "hopwall-idempotency-key"
#: "one-<hash>" or "many-<hash>": the form of the answer, and the hash of method, path and body.
HDR_REQUEST_HASH = "hopwall-request-hash"

KEEP_S = 24 * 3600.0
#: Resources in all remembered outcomes together.
MAX_REMEMBERED = 50_000


class Written(Struct, frozen=True, kw_only=True):
    """One resource of a request: what was done, and at which revision it now stands."""

    key: Key
    word: Word
    revision: int
    #: As it is now; None when it is removed.
    resource: Resource | None

    @property
    def target(self) -> Target:
        """What to follow to learn where it is in force."""
        removed = self.word == "removed"
        return target_of(self.key, self.revision, self.resource, removed=removed)


class Outcome(Struct, frozen=True, kw_only=True):
    """A whole request that was carried out."""

    form: Literal["one", "many"]
    written: tuple[Written, ...]
    dry: bool = False


class _Entry(Struct):
    request_hash: str
    until: float
    outcome: Outcome
    #: Only gathered from events, so perhaps not all of the request.
    gathered: bool


class Memory:
    """Outcomes by Idempotency-Key for `KEEP_S`, the most recent first to be kept."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._n_written = 0

    def recall(self, key: str, now: float) -> tuple[str, Outcome] | None:
        """Return the request's hash and what became of it, or None."""
        entry = self._entries.get(key)
        if entry is None or entry.until < now:
            return None
        return entry.request_hash, entry.outcome

    def remember(self, key: str, request_hash: str, outcome: Outcome, now: float) -> None:
        """Keep the outcome of a request of this process."""
        self._put(
            key,
            _Entry(request_hash=request_hash, until=now + KEEP_S, outcome=outcome, gathered=False),
        )

    def gather(
        self,
        key: str,
        request_hash: str,
        written: Written,
        *,
        form: Literal["one", "many"],
        until: float,
    ) -> None:
        """Learn from one event that a request of this key was carried out."""
        entry = self._entries.get(key)
        if entry is not None and not entry.gathered:
            return
        before = entry.outcome.written if entry and entry.request_hash == request_hash else ()
        others = tuple(one for one in before if one.key != written.key)
        outcome = Outcome(form=form, written=(*others, written))
        self._put(
            key,
            _Entry(request_hash=request_hash, until=until, outcome=outcome, gathered=True),
        )

    def _put(self, key: str, entry: _Entry) -> None:
        before = self._entries.pop(key, None)
        self._n_written += len(entry.outcome.written)
        self._n_written -= len(before.outcome.written) if before else 0
        self._entries[key] = entry
        while self._n_written > MAX_REMEMBERED and len(self._entries) > 1:
            _, oldest = self._entries.popitem(last=False)
            self._n_written -= len(oldest.outcome.written)
