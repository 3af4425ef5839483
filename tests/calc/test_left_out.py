"""Values that came past the API and are not understood: closed, named in the status, and nobody is let in by them."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import structs

from hopwall_calc.graph import Graph
from hopwall_cli.nats_server import NatsServer
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import Resource, key_of
from hopwall_model.updates import EndpointSet, HostEndpointSet, PolicySet, SetBucket, Update
from tests.support.calc_listener import Listener, running
from tests.support.states import endpoint, global_set, gnp, host_endpoint, rule

WALLED: list[Resource] = [
    endpoint("web1", "h1", "10.65.0.5/32", labels={"role": "web"}),
    host_endpoint("h1-eth0", "h1", "eth0"),
    global_set("bad-guys", {"role": "bad"}, "192.0.2.0/24"),
    gnp("keep-out", "role == 'web'", rule("Deny", source={"selector": "role == 'bad'"})),
]
#: What takes the place of one of these; of which kind what the host is told must stay as it is.
BAD: list[tuple[Resource, type]] = [
    (host_endpoint("h1-eth0", "h1", "eth0", "nonsense"), HostEndpointSet),
    (global_set("bad-guys", {"role": "bad"}, "192.0.2.0/24", "nonsense"), SetBucket),
    (gnp("keep-out", "((((", rule()), PolicySet),
]


def told(updates: Iterable[Update]) -> dict[str, Any]:
    """Return what a host is told, by name; of shared pieces without their version."""
    return {
        repr((type(u), getattr(u, "id", ""))): structs.replace(u, version=0, previous=0)
        if isinstance(u, PolicySet | SetBucket)
        else u
        for u in updates
        if isinstance(u, PolicySet | SetBucket | HostEndpointSet | EndpointSet)
    }


def give(graph: Graph, *resources: Resource) -> None:
    """Say these resources, and flush."""
    for resource in resources:
        graph.on_event(ResourceSet(resource=resource), graph.revision + 1)
    graph.flush()


@pytest.mark.parametrize(("bad", "kind"), BAD, ids=lambda one: getattr(one, "__name__", None))
def test_who_is_kept_out_is_not_let_in_by_a_bad_value(bad: Resource, kind: type) -> None:
    """What stood before still stands, and the status says so until a good value, or a removal."""
    graph = Graph("e")
    give(graph, *WALLED)
    before = told(graph.snapshot("h1").updates)
    assert any(isinstance(update, kind) for update in before.values())
    assert graph.left_out.named() == ()
    give(graph, bad)
    assert told(graph.snapshot("h1").updates) == before
    [named] = graph.left_out.named()
    assert named.resource == str(key_of(bad))
    good = next(one for one in WALLED if key_of(one) == key_of(bad))
    give(graph, good)
    assert graph.left_out.named() == ()
    give(graph, bad)
    graph.on_event(ResourceRemoved(key=key_of(bad)), graph.revision + 1)
    graph.flush()
    assert graph.left_out.named() == ()
    assert told(graph.snapshot("h1").updates) != before


def test_a_bad_endpoint_is_closed_and_named() -> None:
    """Its workload is nobody's then, which closes it; so a value that stood is not kept."""
    graph = Graph("e")
    give(graph, *WALLED, endpoint("web1", "h1", "nonsense"))
    assert not [u for u in graph.snapshot("h1").updates if isinstance(u, EndpointSet)]
    assert [one.resource for one in graph.left_out.named()] == ["WorkloadEndpoint default/web1"]


@pytest.mark.nats
async def test_a_calc_that_begins_looks_up_what_still_stands(
    nats_server: NatsServer, listener: Listener
) -> None:
    """The bad value is the last word in the stream; the one before it is what hosts are told, and it is named."""
    last = await listener.put(*WALLED)
    async with running(nats_server):
        await listener.resolved(last)
        before = told((await listener.snapshot("h1")).updates)
    last = await listener.put(*(bad for bad, _ in BAD))
    async with running(nats_server):
        status = await listener.resolved(last)
        assert told((await listener.snapshot("h1")).updates) == before
        assert {one.resource for one in status.left_out} == {str(key_of(bad)) for bad, _ in BAD}
    never = gnp("never-good", "((((", rule())
    last = await listener.put(never)
    async with running(nats_server):
        status = await listener.resolved(last)
        assert told((await listener.snapshot("h1")).updates) == before
        assert str(key_of(never)) in {one.resource for one in status.left_out}
