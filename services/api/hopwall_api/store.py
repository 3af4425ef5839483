"""The folded copy of the events stream: what every read is answered from.

Pure. Owns the resources by key, the tombstones, and the most recent changes (for watches that resume, and
for lists that go on at the revision they began with). Refuses to be written to by anything but the stream.

While a new snapshot of the stream is folded the old picture keeps answering; it is exchanged whole.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from hopwall_api.marks import Marks
from hopwall_model.events import (
    Event,
    ResourceSet,
    RestoreBegun,
    RestoreEnded,
    TombstonesPurged,
)
from hopwall_model.resources import KINDS, IPAMBlock, Key, Resource
from hopwall_model.selectors import NAMESPACE_LABEL

RING_SIZE = 20_000
Place = tuple[str, str]  # (namespace, name): the order of lists


class Stored(Struct, frozen=True, gc=False):
    """One resource as it is shown: `metadata.resourceVersion` is its revision."""

    resource: Resource
    revision: int


class Held(Struct, frozen=True, gc=False):
    """What is known of a key: `last` is the sequence of its subject's last message, 0 if none."""

    last: int
    stored: Stored | None


class Change(Struct, frozen=True, kw_only=True, gc=False):
    """One event as a watcher sees it. `known` is False when what was before it is not known."""

    revision: int
    key: Key
    before: Stored | None
    after: Stored | None
    known: bool = True


class TooOld(Exception):
    """The revision lies before what is remembered; the caller has to list again."""


NOTHING = Held(last=0, stored=None)


def shown(resource: Resource, revision: int) -> Stored:
    """Return the resource with its revision filled in."""
    metadata = replace(resource.metadata, resource_version=str(revision))
    return Stored(replace(resource, metadata=metadata), revision)


def labels_of(resource: Resource) -> dict[str, str]:
    """Return what a selector sees: the labels, and the namespace as one."""
    metadata = resource.metadata
    if metadata.namespace is None:
        return metadata.labels
    return {**metadata.labels, NAMESPACE_LABEL: metadata.namespace}


class _Picture:
    """State at one revision: the last word on every key."""

    def __init__(self) -> None:
        self.held: dict[str, dict[Place, Held]] = {kind.__name__: {} for kind in KINDS}
        self.order: dict[str, list[Place]] = {kind.__name__: [] for kind in KINDS}
        self.revision = 0
        #: The restore that has begun and not ended: until then this is a mixture.
        self.restoring: RestoreBegun | None = None
        #: The last time that one has begun or ended.
        self.mark = 0
        #: Tombstones up to this revision may be missing.
        self.purged = 0

    def note(self, revision: int, event: Event) -> None:
        """Fold an event that is no word on a resource that is known here."""
        self.revision = max(self.revision, revision)
        if isinstance(event, RestoreBegun):
            self.restoring, self.mark = event, revision
        elif isinstance(event, RestoreEnded):
            self.restoring, self.mark = None, revision
        elif isinstance(event, TombstonesPurged):
            self.purged = max(self.purged, event.revision)

    def get(self, key: Key) -> Held:
        of_kind = self.held.get(key.kind)
        return of_kind.get((key.namespace, key.name), NOTHING) if of_kind is not None else NOTHING

    def put(self, key: Key, held: Held) -> Held:
        """Fold one value, keep the order, and return what was held before."""
        place = (key.namespace, key.name)
        of_kind, order = self.held[key.kind], self.order[key.kind]
        before = of_kind.get(place, NOTHING)
        of_kind[place] = held
        if before.stored is None and held.stored is not None:
            if not order or place > order[-1]:
                order.append(place)
            else:
                insort(order, place)
        elif before.stored is not None and held.stored is None:
            del order[bisect_left(order, place)]
        self.revision = max(self.revision, held.last)
        return before

    def load(self, key: Key, held: Held) -> None:
        """Fold one value of a snapshot; `arrange` puts the order right at the end."""
        self.held[key.kind][key.namespace, key.name] = held
        self.revision = max(self.revision, held.last)

    def arrange(self) -> None:
        for kind, of_kind in self.held.items():
            self.order[kind] = sorted(p for p, held in of_kind.items() if held.stored is not None)

    def all(self) -> Iterator[tuple[Key, Held]]:
        for kind, of_kind in self.held.items():
            for (namespace, name), held in of_kind.items():
                yield Key(kind, namespace, name), held


class Store:
    """The picture, and the ring of recent changes."""

    def __init__(self, ring_size: int = RING_SIZE) -> None:
        self._ring_size = ring_size
        self._picture = _Picture()
        self._loading: _Picture | None = None
        self._stream_id = ""
        self._loading_id = ""
        self._ring: list[Change] = []
        #: Every change after `_floor` is in the ring.
        self._floor = 0
        #: Changes after `_undo_floor` can be undone: what was before each is known.
        self._undo_floor = 0
        self._marks = Marks()
        self.in_sync = False
        #: Another number means another history: watchers of the old one must list again.
        self.lineage = 0

    # ------------------------------------------------------------ folding

    def begin(self, stream_id: str) -> None:
        """Start to fold a snapshot; reads go on from the old picture."""
        self._loading = _Picture()
        self._loading_id = stream_id

    def fold(self, revision: int, event: Event) -> None:
        """Fold one event. A kind that is not known here is passed over."""
        key = event.key
        if key.kind not in self._picture.held:
            (self._loading or self._picture).note(revision, event)
            if self._loading is None:
                self._on_note(revision, event)
            return
        stored = None
        if isinstance(event, ResourceSet):
            stored = shown(_sharing(event.resource, self._picture.get(key).stored), revision)
        held = Held(last=revision, stored=stored)
        if self._loading is not None:
            self._loading.load(key, held)
            return
        before = self._picture.put(key, held)
        if before.stored is not None or stored is not None:
            self._remember([Change(revision=revision, key=key, before=before.stored, after=stored)])

    def _on_note(self, revision: int, event: Event) -> None:
        if isinstance(event, RestoreBegun | RestoreEnded):
            self._marks.note(revision, begun=isinstance(event, RestoreBegun))
        elif isinstance(event, TombstonesPurged):
            self._on_purge(event.revision)

    def _on_purge(self, revision: int) -> None:
        """Forget tombstones that the stream has no more, or will not have soon."""
        self._floor = max(self._floor, revision)
        for of_kind in self._picture.held.values():
            gone = [p for p, held in of_kind.items() if not held.stored and held.last <= revision]
            for place in gone:
                del of_kind[place]

    def caught_up(self, revision: int) -> None:
        """Take the folded snapshot as the picture."""
        new, old = self._loading, self._picture
        if new is None:
            old.revision = max(old.revision, revision)
            return
        new.revision = max(new.revision, revision)
        new.arrange()
        same = self._loading_id == self._stream_id and _continues(old, new)
        if self.in_sync and not same:
            self.lineage += 1
        known = old if self.in_sync and same else None
        self._start_ring(new, known)
        if known is None:
            self._marks = Marks()
        after = known.revision if known is not None else 0
        self._marks.jump(after, new.mark, begun=new.restoring is not None)
        self._picture, self._loading = new, None
        self._stream_id = self._loading_id
        self.in_sync = True

    def _start_ring(self, new: _Picture, old: _Picture | None) -> None:
        """Fill the ring from a snapshot: the last word on each key is all a watcher needs.

        What the old picture did not have yet is added to the ring; values between the two are unknown, so
        a list that began before cannot go on.
        """
        after = old.revision if old is not None else 0
        changes = [
            Change(
                revision=held.last,
                key=key,
                before=old.get(key).stored if old is not None else None,
                after=held.stored,
                known=old is not None,
            )
            for key, held in new.all()
            if held.last > after
        ]
        changes.sort(key=lambda change: change.revision)
        if old is None:
            # Who knows less than the last purge cannot be told all that is gone.
            self._ring, self._floor = [], new.purged
        self._remember(changes)
        self._undo_floor = new.revision

    def _remember(self, changes: list[Change]) -> None:
        self._ring.extend(changes)
        if len(self._ring) >= 2 * self._ring_size:
            cut = len(self._ring) - self._ring_size
            self._floor = self._ring[cut - 1].revision
            del self._ring[:cut]
            self._undo_floor = max(self._undo_floor, self._floor)

    # ------------------------------------------------------------ reading

    @property
    def revision(self) -> int:
        """The revision this picture includes."""
        return self._picture.revision

    @property
    def restoring(self) -> RestoreBegun | None:
        """The restore that has begun and not ended."""
        return self._picture.restoring

    @property
    def mark(self) -> int:
        """The revision at which a restore has begun or ended last."""
        return self._picture.mark

    def within_restore(self, revision: int) -> bool:
        """Tell whether a restore was, or may have been, under way when this was stored, which is folded."""
        if self._loading is not None:
            return self._loading.restoring is not None or self._marks.within(revision)
        return self._marks.within(revision)

    @property
    def stream_id(self) -> str:
        """The history of the stream that is shown."""
        return self._stream_id

    def held(self, key: Key) -> Held:
        """Return what is known of the key."""
        return self._picture.get(key)

    def get(self, key: Key) -> Stored | None:
        """Return the resource, or None."""
        return self._picture.get(key).stored

    def last_of(self, kind: str) -> int:
        """Return the sequence of the last word on any resource of a kind, 0 if none is remembered."""
        return max((held.last for held in self._picture.held[kind].values()), default=0)

    def everything(self) -> list[Resource]:
        """Return all resources as of now, what is named before what names it; by namespace and name."""
        return [
            self._picture.held[kind.__name__][place].stored.resource  # type: ignore[union-attr]
            for kind in KINDS
            for place in self._picture.order[kind.__name__]
        ]

    def tombstones(self, n: int) -> list[tuple[Key, int]]:
        """Return removed resources with the revision of their removal, the oldest first; at most so many."""
        found = [(held.last, key) for key, held in self._picture.all() if held.stored is None]
        return [(key, last) for last, key in sorted(found)[:n]]

    def counts(self) -> dict[str, int]:
        """Return how many resources of each kind there are."""
        return {kind: len(order) for kind, order in self._picture.order.items()}

    def page(
        self, kind: str, namespace: str | None, *, at: int, after: Place | None, n: int
    ) -> list[Stored]:
        """Return the next resources of a kind as they were at revision `at`, by namespace and name.

        At most `n`, and only fewer when there are no more. `namespace` None means all.

        Errors: TooOld when `at` can no longer be told from the present.
        Cost: O(n + changes since `at`).
        """
        if at < self._undo_floor or at > self.revision:
            raise TooOld
        then: dict[Place, Stored | None] = {}
        for change in reversed(self._ring[self._position(at) :]):
            if change.key.kind == kind and namespace in (None, change.key.namespace):
                then[change.key.namespace, change.key.name] = change.before
        start = after if after is not None else (namespace or "", "")
        order, of_kind = self._picture.order[kind], self._picture.held[kind]
        index = bisect_right(order, start)
        # Each undone change can hide one resource of the slice, or add one.
        places = order[index : index + n + len(then)]
        if then:
            last = places[-1] if index + len(places) < len(order) else None
            missing = {p for p in then if p > start and (last is None or p <= last)}
            places = sorted(missing.union(places))
        found: list[Stored] = []
        for place in places:
            if len(found) == n or (namespace is not None and place[0] != namespace):
                break
            stored = then[place] if place in then else of_kind[place].stored
            if stored is not None:
                found.append(stored)
        return found

    def changes_since(self, revision: int, n: int) -> list[Change]:
        """Return the oldest `n` changes after the revision.

        Errors: TooOld when not all of them are remembered.
        """
        if revision < self._floor:
            raise TooOld
        start = self._position(revision)
        return self._ring[start : start + n]

    def _position(self, revision: int) -> int:
        return bisect_right(self._ring, revision, key=lambda change: change.revision)


def _sharing(resource: Resource, before: Stored | None) -> Resource:
    """Return the resource, made of the same parts as its last value where these are equal.

    A block changes by one address of many, and the ring holds all its recent values.
    """
    if not isinstance(resource, IPAMBlock) or before is None:
        return resource
    old = before.resource
    assert isinstance(old, IPAMBlock)
    known = {one.address: one for one in old.spec.allocations}
    allocations = tuple(
        had if (had := known.get(one.address)) == one and had is not None else one
        for one in resource.spec.allocations
    )
    return replace(resource, spec=replace(resource.spec, allocations=allocations))


def _continues(old: _Picture, new: _Picture) -> bool:
    """Tell whether nothing the old picture held was undone: a stream that lost its tail fails this."""
    if new.revision < old.revision:
        return False
    for key, held in old.all():
        now = new.get(key)
        if held.stored is None and now is NOTHING and held.last <= new.purged:
            continue
        if now.last < held.last or (now.last == held.last and now.stored != held.stored):
            return False
    return True
