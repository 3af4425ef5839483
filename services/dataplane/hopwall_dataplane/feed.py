"""From messages to whole steps: what may be applied, and when a host must ask again from nothing.

A host batch names the versions of shared scopes it relies on; the pieces themselves travel apart. A step is
handed on only when everything it names is here, so no line ever names a set that has not come. Duplicates
are dropped; a gap, a new epoch or a broken chain of versions asks for a snapshot, never for guesses. What
comes while a snapshot is on its way is kept, and follows it.

Pure: no clock. The agent asks for a snapshot when `waiting_for` stays set too long.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hopwall_model.epochs import Succession
from hopwall_model.updates import (
    HostBatch,
    NeedRemoved,
    NeedSet,
    PolicySet,
    RoutesBucket,
    Scope,
    SetBucket,
    SharedPiece,
    SharedUpdate,
    Update,
)


@dataclass(frozen=True, slots=True)
class Step:
    """A change that is complete and can be applied.

    Shape: `fresh` names the scopes whose pieces in `updates` are the whole value (what was held of them is
           void); of others the pieces replace only their own buckets.
    """

    epoch: str
    revision: int
    full: bool
    updates: tuple[Update, ...]
    fresh: frozenset[Scope] = frozenset()


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Only a snapshot helps; the reason is for the log."""

    reason: str


Found = Step | AskAgain

#: Batches kept for a snapshot to come; more than these, and the snapshot will show a gap.
_MAX_AHEAD = 1000


@dataclass(slots=True)
class Feed:
    """One host's view of what calc sends.

    Shape: `versions` is what was handed on, per needed scope; `needed` additionally has what waits.
           `_ahead` are batches that do not follow what is held: a snapshot may close the gap before them.
    """

    epoch: str = ""
    number: int = 0
    received: int = 0
    succession: Succession = field(default_factory=Succession)
    versions: dict[Scope, int] = field(default_factory=dict)
    _waiting: deque[HostBatch] = field(default_factory=deque)
    _ahead: deque[HostBatch] = field(default_factory=lambda: deque(maxlen=_MAX_AHEAD))
    _stash: dict[Scope, list[SharedPiece]] = field(default_factory=dict)

    @property
    def waiting_for(self) -> str:
        """What the oldest waiting batch lacks; "" when nothing waits."""
        if not self._waiting:
            return ""
        return next((s for s, v in _needs(self._waiting[0]) if not self._reachable(s, v)), "")

    @property
    def needed(self) -> set[Scope]:
        """The scopes to be subscribed to."""
        scopes = set(self.versions)
        for batch in self._waiting:
            scopes.update(scope for scope, _ in _needs(batch))
        return scopes

    def obeys(self, batch: HostBatch, now: float) -> bool:
        """Tell whether a batch comes from who is obeyed, and not from a calc that was deposed."""
        return self.succession.obeys(batch.epoch, batch.revision, now)

    def on_batch(self, batch: HostBatch) -> list[Found]:
        """Take a batch of this host's feed; return what can now be applied, in order."""
        if batch.full:
            return self._on_full(batch)
        last = self._waiting[-1].number if self._waiting else self.number
        if batch.epoch == self.epoch and batch.number <= last:
            self.received = max(self.received, batch.revision)
            return self._heartbeat(batch)
        if batch.epoch == self.epoch and batch.number == last + 1 and batch.updates:
            self.received = batch.revision
            self._waiting.append(batch)
            return self._release()
        if batch.updates:  # without any it is a heartbeat, and the batch of its number was lost
            self._ahead.append(batch)
        return [AskAgain("gap" if batch.epoch == self.epoch else "epoch")]

    def on_shared(self, update: SharedUpdate) -> list[Found]:
        """Take a piece of a shared scope; return what can now be applied, in order."""
        piece = update.piece
        if update.epoch != self.epoch or piece.scope not in self.needed:
            return []
        if piece.version <= self.versions.get(piece.scope, 0):
            return []
        stash = self._stash.setdefault(piece.scope, [])
        if not stash or piece.version > stash[-1].version:
            stash.append(piece)
        return self._release()

    def _heartbeat(self, batch: HostBatch) -> list[Found]:
        """Take the revision of a repeated number: nothing changed for this host up to there."""
        if batch.number == self.number and not self._waiting and not batch.updates:
            return [Step(self.epoch, batch.revision, full=False, updates=())]
        return []

    def _on_full(self, batch: HostBatch) -> list[Found]:
        if batch.epoch == self.epoch and batch.number < self.number:
            return []
        if batch.epoch != self.epoch:
            self._stash = {}  # versions of two epochs are never compared
        self.epoch, self.number, self.received = batch.epoch, batch.number, batch.revision
        self.versions = dict(_needs(batch))
        self._follow_on()
        self._stash = {s: pieces for s, pieces in self._stash.items() if s in self.needed}
        for scope, version in self.versions.items():
            self._drop_stashed(scope, version)
        step = Step(
            batch.epoch,
            batch.revision,
            full=True,
            updates=batch.updates,
            fresh=frozenset(self.versions),
        )
        return [step, *self._release()]

    def _follow_on(self) -> None:
        """Let the batches that follow the snapshot, as far as they have come, wait for their turn."""
        kept = {b.number: b for b in (*self._waiting, *self._ahead) if b.epoch == self.epoch}
        self._waiting.clear()
        self._ahead.clear()
        number = self.number
        while (following := kept.get(number := number + 1)) is not None:
            self._waiting.append(following)
            self.received = following.revision

    def _release(self) -> list[Found]:
        found: list[Found] = []
        while self._waiting:
            batch = self._waiting[0]
            carried = {piece.scope for piece in _pieces(batch)}
            for scope, version in _needs(batch):
                if scope in carried or self._reachable(scope, version):
                    continue
                if self._broken(scope, version):
                    found.append(AskAgain(f"missed {scope}"))
                return found
            self._waiting.popleft()
            found.append(self._step(batch, carried))
        return found

    def _step(self, batch: HostBatch, carried: set[Scope]) -> Step:
        stashed: list[Update] = []
        for scope, version in _needs(batch):
            if scope not in carried:
                stashed.extend(p for p in self._stash.get(scope, ()) if p.version <= version)
            self.versions[scope] = max(version, self.versions.get(scope, 0))
            self._drop_stashed(scope, version)
        for update in batch.updates:
            if isinstance(update, NeedRemoved):
                self.versions.pop(update.scope, None)
                self._stash.pop(update.scope, None)
        self.number = batch.number
        return Step(
            self.epoch,
            batch.revision,
            full=False,
            updates=tuple(stashed) + batch.updates,
            fresh=frozenset(carried),
        )

    def _drop_stashed(self, scope: Scope, version: int) -> None:
        rest = [piece for piece in self._stash.get(scope, ()) if piece.version > version]
        if rest:
            self._stash[scope] = rest
        else:
            self._stash.pop(scope, None)

    def _reachable(self, scope: Scope, version: int) -> bool:
        """Tell whether the held version and the stashed pieces chain up to this version."""
        held = self.versions.get(scope, 0)
        for piece in self._stash.get(scope, ()):
            if piece.version > version:
                break
            if piece.previous != held:
                return False
            held = piece.version
        return held >= version

    def _broken(self, scope: Scope, version: int) -> bool:
        """Tell whether no later message can still complete the chain to this version."""
        stash = self._stash.get(scope, [])
        return bool(stash) and (
            stash[0].previous != self.versions.get(scope, 0) or stash[-1].version >= version
        )


def _needs(batch: HostBatch) -> Iterable[tuple[Scope, int]]:
    return [(u.scope, u.version) for u in batch.updates if isinstance(u, NeedSet)]


def _pieces(batch: HostBatch) -> Iterable[SharedPiece]:
    return [u for u in batch.updates if isinstance(u, PolicySet | SetBucket | RoutesBucket)]
