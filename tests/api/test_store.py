"""The folded copy: order, revisions, undo, ring, and exchange of pictures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hopwall_api.store import NOTHING, Change, Store, TooOld, labels_of
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.ipam_specs import IpamAllocation, IpamBlockSpec
from hopwall_model.resources import (
    IPAMBlock,
    Key,
    Metadata,
    NetworkSet,
    Node,
    Resource,
    key_of,
)


def node(name: str, **labels: str) -> Node:
    """Return a Node."""
    return Node(metadata=Metadata(name=name, labels=labels))


def netset(namespace: str, name: str) -> NetworkSet:
    """Return a NetworkSet."""
    return NetworkSet(metadata=Metadata(name=name, namespace=namespace))


def put(resource: Resource) -> ResourceSet:
    """Return the event that sets the resource."""
    return ResourceSet(resource=resource)


def gone(resource: Resource) -> ResourceRemoved:
    """Return the event that removes the resource."""
    return ResourceRemoved(key=key_of(resource))


def loaded(*events: Event, ring_size: int = 100) -> Store:
    """Return a store whose snapshot held these events, at revisions 1, 2, 3 …"""
    store = Store(ring_size)
    reload(store, list(enumerate(events, start=1)))
    return store


def reload(store: Store, events: list[tuple[int, Event]], stream_id: str = "s") -> None:
    """Let the store fold a snapshot."""
    store.begin(stream_id)
    for revision, event in events:
        store.fold(revision, event)
    store.caught_up(events[-1][0] if events else 0)


def test_values_of_a_block_share_what_did_not_change() -> None:
    """The ring holds many values of one block, and each is made of the parts of the one before."""
    allocations = [IpamAllocation(address=f"10.0.0.{n}", handle="a", node="h") for n in range(3)]
    store = loaded(put(block(*allocations[:2])))
    store.fold(2, put(block(*(replace(one) for one in allocations))))
    (change,) = store.changes_since(1, 10)
    assert change.before is not None
    assert change.after is not None
    before, after = change.before.resource, change.after.resource
    assert isinstance(before, IPAMBlock)
    assert isinstance(after, IPAMBlock)
    assert after.spec.allocations == tuple(allocations)
    assert after.spec.allocations[0] is before.spec.allocations[0]


def block(*allocations: IpamAllocation) -> IPAMBlock:
    """Return a block with these allocations."""
    spec = IpamBlockSpec(cidr="10.0.0.0/30", allocations=allocations)
    return IPAMBlock(metadata=Metadata(name="10-0-0-0-30"), spec=spec)


def names(store: Store, at: int | None = None, n: int = 100) -> list[str]:
    """Return the names of the Nodes at a revision."""
    page = store.page("Node", None, at=at if at is not None else store.revision, after=None, n=n)
    return [stored.resource.metadata.name for stored in page]


def test_a_store_is_not_in_sync_before_the_first_snapshot_is_whole() -> None:
    """Nothing is shown before CaughtUp."""
    store = Store()
    store.begin("s")
    store.fold(1, put(node("a")))
    assert not store.in_sync
    assert store.get(Key("Node", "", "a")) is None
    store.caught_up(1)
    assert store.in_sync
    assert store.get(Key("Node", "", "a")) is not None


def test_resource_version_is_the_revision() -> None:
    """What is read bears the sequence number of its event."""
    stored = loaded(put(node("a")), put(node("b"))).get(Key("Node", "", "b"))
    assert stored is not None
    assert stored.resource.metadata.resource_version == "2"


def test_a_tombstone_keeps_its_sequence() -> None:
    """After a removal the next write must expect the tombstone's sequence."""
    store = loaded(put(node("a")), gone(node("a")))
    held = store.held(Key("Node", "", "a"))
    assert (held.last, held.stored) == (2, None)
    assert store.held(Key("Node", "", "never")) == NOTHING
    assert store.held(Key("Hat", "", "x")) == NOTHING


def test_lists_are_ordered_by_namespace_and_name() -> None:
    """Order does not depend on the order of arrival."""
    sets = [netset("b", "a"), netset("a", "z"), netset("a", "b"), netset("ab", "a")]
    store = loaded(*(put(one) for one in sets))
    page = store.page("NetworkSet", None, at=4, after=None, n=9)
    places = [(s.resource.metadata.namespace, s.resource.metadata.name) for s in page]
    assert places == [("a", "b"), ("a", "z"), ("ab", "a"), ("b", "a")]
    of_a = store.page("NetworkSet", "a", at=4, after=None, n=9)
    assert [s.resource.metadata.name for s in of_a] == ["b", "z"]
    assert labels_of(sets[0]) == {"projectcalico.org/namespace": "b"}


def test_a_revision_before_the_snapshot_cannot_be_listed() -> None:
    """What was before the API began is not known, so it is refused and not guessed."""
    store = loaded(put(node("a")), put(node("b")))
    with pytest.raises(TooOld):
        store.page("Node", None, at=1, after=None, n=1)
    with pytest.raises(TooOld):
        store.page("Node", None, at=3, after=None, n=1)


def test_a_ring_that_overflowed_refuses_what_it_forgot() -> None:
    """Neither watches nor lists go on from a revision that is forgotten."""
    store = loaded(put(node("a")), ring_size=10)
    for revision in range(2, 42):
        store.fold(revision, put(node("a", n=str(revision))))
    oldest = store.changes_since(41 - 10, 100)[0].revision
    assert oldest <= 32
    with pytest.raises(TooOld):
        store.changes_since(1, 1)
    with pytest.raises(TooOld):
        store.page("Node", None, at=1, after=None, n=1)


def test_changes_know_what_was_before() -> None:
    """A live change carries both values, so a watcher can tell what left its filter."""
    store = loaded(put(node("a", x="1")))
    store.fold(2, put(node("a", x="2")))
    (change,) = store.changes_since(1, 9)
    assert change.before is not None
    assert change.before.resource.metadata.labels == {"x": "1"}
    assert change.known


def test_a_snapshot_seeds_the_ring_so_that_watches_resume_after_a_restart() -> None:
    """The last word on each key, in order of revision, is all that a watcher missed."""
    store = loaded(put(node("a")), put(node("b")), gone(node("a")))
    seen = [(c.revision, c.key.name, c.after is None, c.known) for c in store.changes_since(1, 9)]
    assert seen == [(2, "b", False, False), (3, "a", True, False)]


def test_a_new_snapshot_of_the_same_stream_adds_what_was_missed() -> None:
    """After a reconnect watchers go on: the ring gets what the old picture did not have."""
    store = loaded(put(node("a")), put(node("b")))
    reload(store, [(2, put(node("b"))), (5, gone(node("a"))), (7, put(node("c")))])
    assert store.lineage == 0
    assert [c.revision for c in store.changes_since(2, 9)] == [5, 7]
    assert names(store) == ["b", "c"]
    with pytest.raises(TooOld):
        store.page("Node", None, at=2, after=None, n=1)


def test_old_picture_answers_while_a_new_one_is_read() -> None:
    """A reconnect never shows a half-read store."""
    store = loaded(put(node("a")), put(node("b")))
    store.begin("s")
    store.fold(1, put(node("a")))
    assert names(store) == ["a", "b"]


@pytest.mark.parametrize(
    ("stream_id", "events"),
    [
        ("other", [(1, put(node("a"))), (2, put(node("b")))]),
        ("s", [(1, put(node("a")))]),
        ("s", [(1, put(node("a"))), (2, put(node("x"))), (3, put(node("y")))]),
        ("s", [(1, put(node("a"))), (2, put(node("b", other="1"))), (3, put(node("y")))]),
    ],
)
def test_a_stream_that_lost_something_begins_another_history(
    stream_id: str, events: list[tuple[int, Event]]
) -> None:
    """A stream made anew, cut short or rewritten sends every watcher back to the start."""
    store = loaded(put(node("a")), put(node("b")))
    reload(store, events, stream_id)
    assert store.lineage == 1


steps = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=60)


@given(before=steps, after=steps, n=st.integers(1, 4))
def test_pages_at_a_revision_show_that_revision_whatever_happens_meanwhile(
    before: list[tuple[str, bool]], after: list[tuple[str, bool]], n: int
) -> None:
    """Paging while others write equals the list as it was at the first page."""
    store = Store(1000)
    reload(store, [])
    revision = 0

    def step(name: str, keep: bool) -> None:
        nonlocal revision
        revision += 1
        store.fold(revision, put(node(name, at=str(revision))) if keep else gone(node(name)))

    for name, keep in before:
        step(name, keep)
    at = store.revision
    expected = store.page("Node", None, at=at, after=None, n=1000)
    seen, place = [], None
    waiting = list(after)
    while True:
        page = store.page("Node", None, at=at, after=place, n=n)
        seen.extend(page)
        if len(page) < n:
            break
        place = ("", page[-1].resource.metadata.name)
        for name, keep in waiting[:3]:
            step(name, keep)
        del waiting[:3]
    assert seen == expected


@given(events=steps, cut=st.integers(0, 60))
def test_folding_a_snapshot_equals_folding_the_history(
    events: list[tuple[str, bool]], cut: int
) -> None:
    """Live events and a snapshot of last words end in the same lists and the same watches."""
    history = [
        (i, put(node(name, at=str(i))) if keep else gone(node(name)))
        for i, (name, keep) in enumerate(events, start=1)
    ]
    live, fresh = Store(1000), Store(1000)
    reload(live, [])
    for revision, event in history:
        live.fold(revision, event)
    last: dict[Key, tuple[int, Event]] = {event.key: (i, event) for i, event in history}
    reload(fresh, sorted(last.values(), key=lambda one: one[0]))
    every = fresh.page("Node", None, at=fresh.revision, after=None, n=1000)
    assert every == live.page("Node", None, at=live.revision, after=None, n=1000)
    start = min(cut, len(history))

    def ends(changes: list[Change]) -> dict[Key, object]:
        return {change.key: change.after for change in changes}

    missed = ends(live.changes_since(start, 1000))
    resumed = ends(fresh.changes_since(start, 1000))
    assert {k: v for k, v in missed.items() if v is not None} == {
        k: v for k, v in resumed.items() if v is not None
    }
    assert missed.keys() <= resumed.keys()
