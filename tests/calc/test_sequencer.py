"""What the sequencer promises about order, versions and numbers."""

from hopwall_calc.graph import Graph
from hopwall_calc.sequencer import Output
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.resources import Resource, key_of
from hopwall_model.updates import (
    EndpointRemoved,
    EndpointSet,
    NeedRemoved,
    NeedSet,
    PolicySet,
    RoutesBucket,
    SetBucket,
)
from tests.support.states import DB1, FROM_WEB, MANY, TWO_HOSTS, endpoint, gnp, rule


class Feed:
    """A graph that is past its opening, fed event by event."""

    def __init__(self, *resources: Resource) -> None:
        self.graph = Graph("e")
        self.graph.flush()
        if resources:
            self.put(*resources)

    def take(self, *events: Event) -> Output:
        """Take events in and flush."""
        for event in events:
            self.graph.on_event(event, self.graph.revision + 1)
        output = self.graph.flush()
        assert output is not None
        return output

    def put(self, *resources: Resource) -> Output:
        """Set resources and flush."""
        return self.take(*(ResourceSet(resource=r) for r in resources))


def test_opening_only_says_that_the_epoch_has_begun() -> None:
    """What was there before the first flush is asked for, not sent."""
    graph = Graph("e")
    for number, resource in enumerate(TWO_HOSTS, start=1):
        graph.on_event(ResourceSet(resource=resource), number)
    output = graph.flush()
    assert output is not None
    assert output.shared == ()
    assert [(b.host, b.number, b.updates) for b in output.batches] == [("h1", 1, ()), ("h2", 1, ())]
    assert output.first == 0


def test_batch_is_in_the_order_that_never_dangles() -> None:
    """Sets before policies before routes, then needs, endpoints; removals the other way round."""
    feed = Feed()
    output = feed.put(*TWO_HOSTS, FROM_WEB)
    kinds = [type(u) for batch in output.batches if batch.host == "h2" for u in batch.updates]
    assert list(dict.fromkeys(kinds)) == [SetBucket, PolicySet, RoutesBucket, NeedSet, EndpointSet]
    output = feed.take(ResourceRemoved(key=key_of(DB1)))
    [batch] = [batch for batch in output.batches if batch.host == "h2"]
    assert [type(u) for u in batch.updates] == [EndpointRemoved, NeedRemoved, NeedRemoved]
    scopes = [u.scope for u in batch.updates if isinstance(u, NeedRemoved)]
    assert [scope.partition("/")[0] for scope in scopes] == ["policy", "set"]


def test_a_flush_without_an_event_has_an_empty_range() -> None:
    """Whom the last event concerns has been said, and is not said again of the hosts that change now."""
    feed = Feed()
    revision = feed.put(*TWO_HOSTS).revision
    output = feed.graph.flush(recompute_all=True)
    assert output is not None
    assert (output.first, output.revision) == (revision + 1, revision)
    assert feed.put(FROM_WEB).first == revision + 1


def test_numbers_count_without_gaps() -> None:
    """Each host's batches are 1, 2, 3 …, whatever the others get."""
    feed = Feed()
    seen: dict[str, list[int]] = {}
    for i in range(4):
        for host in ("h1", "h2")[: 1 + i % 2]:
            output = feed.put(endpoint(f"e{i}", host, f"10.0.{len(host)}.{i}/32"))
            for batch in output.batches:
                seen.setdefault(batch.host, []).append(batch.number)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in seen.values())
    assert seen.keys() == {"h1", "h2"}


def test_shared_pieces_chain() -> None:
    """Each piece of a scope names the version before it, and the need names the last."""
    feed = Feed(*MANY)
    [(set_id, members)] = feed.graph.nodes.sets.members.items()
    assert members.n_buckets > 1
    held = _need(feed, f"set/{set_id}")
    changes = [
        endpoint(f"new{i}", "h1", f"10.99.0.{i}/32", labels={"role": "web"}) for i in range(1, 9)
    ]
    output = feed.put(*changes)
    pieces = [u.piece for u in output.shared if isinstance(u.piece, SetBucket)]
    assert 1 < len(pieces) <= members.n_buckets
    for piece in pieces:
        assert piece.previous == held
        assert piece.version > held
        held = piece.version
    assert _need(feed, f"set/{set_id}") == held


def test_versions_leave_room_for_the_chain_of_the_whole() -> None:
    """The whole value's pieces have versions of their own, none of which was ever another's."""
    feed = Feed(*MANY)
    [(set_id, _)] = feed.graph.nodes.sets.members.items()
    before = _need(feed, f"set/{set_id}")
    output = feed.put(endpoint("new", "h1", "10.99.0.1/32", labels={"role": "web"}))
    assert len([u for u in output.shared if isinstance(u.piece, SetBucket)]) == 1
    whole = [u for u in feed.graph.snapshot("h2").updates if isinstance(u, SetBucket)]
    versions = [piece.version for piece in whole]
    assert versions == sorted(set(versions))
    assert versions[0] > before
    assert versions[-1] == _need(feed, f"set/{set_id}")
    assert [piece.previous for piece in whole] == [0, *versions[:-1]]


def test_newly_needed_scope_travels_only_to_who_needs_it() -> None:
    """A host that begins to use a policy gets it in its batch; those that have it hear nothing."""
    feed = Feed(endpoint("a", "h1"), gnp("p", "all()", rule()))
    output = feed.put(endpoint("b", "h2"))
    assert output.shared == ()
    updates = {batch.host: batch.updates for batch in output.batches}
    assert any(isinstance(u, PolicySet) for u in updates["h2"])
    assert not any(isinstance(u, PolicySet) for u in updates["h1"])


def test_changed_and_newly_needed_at_once() -> None:
    """One flush may send the new value shared to some hosts and whole to another, at one version."""
    feed = Feed(endpoint("a", "h1"), gnp("p", "all()", rule()))
    output = feed.put(endpoint("b", "h2"), gnp("p", "all()", rule("Deny")))
    [shared] = [u.piece for u in output.shared if isinstance(u.piece, PolicySet)]
    updates = {batch.host: batch.updates for batch in output.batches}
    [whole] = [u for u in updates["h2"] if isinstance(u, PolicySet) and u.id == "gnp/p"]
    assert (whole.version, whole.previous, whole.ingress) == (shared.version, 0, shared.ingress)
    needs = {
        u.version
        for batch in updates.values()
        for u in batch
        if isinstance(u, NeedSet) and u.scope == "policy/gnp/p"
    }
    assert needs == {shared.version}


def _need(feed: Feed, scope: str) -> int:
    [version] = [
        u.version
        for u in feed.graph.snapshot("h2").updates
        if isinstance(u, NeedSet) and u.scope == scope
    ]
    return version
