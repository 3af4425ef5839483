"""The graph as a whole: states x expanders x oracle."""

from pathlib import Path

import pytest

from hopwall_calc.engine import mermaid
from hopwall_calc.graph import Graph, Nodes, wire
from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from hopwall_model.ipam_specs import IpamBlockSpec
from hopwall_model.resources import (
    IPAMBlock,
    IPAMConfiguration,
    IPReservation,
    Metadata,
    Resource,
    key_of,
)
from hopwall_model.updates import HostBatch
from tests.support.calc import Cloud
from tests.support.expand import expand, walk
from tests.support.states import (
    EMPTY,
    POLICED,
    TIERED,
    TWO_HOSTS,
    WALKS,
    WEB1,
    State,
    endpoint,
    gnp,
    rule,
)

PICTURE = Path(__file__).parents[2] / "docs" / "design" / "calc-graph.md"


@pytest.mark.parametrize("name", WALKS)
def test_every_walk_gives_what_the_oracle_says(name: str) -> None:
    """After every flush each host's folded messages are what the dumb recompute says."""
    for how, steps in expand(WALKS[name]):
        cloud = Cloud()
        for events, state in steps:
            cloud.step(events)
            cloud.check(state, f"{how}, {state}")


@pytest.mark.parametrize("name", WALKS)
def test_walks_without_routes(name: str) -> None:
    """Where BGP spreads the routes, hosts get everything else and no routes."""
    cloud = Cloud(routes=False)
    for events, state in walk(WALKS[name]):
        cloud.step(events)
        cloud.check(state, str(state))


@pytest.mark.parametrize("name", WALKS)
def test_recomputing_every_node_changes_nothing(name: str) -> None:
    """A walk in which every node is recomputed at every flush gives the same messages to hosts."""
    cloud = Cloud(recompute_all=True)
    for events, state in walk(WALKS[name]):
        cloud.step(events)
        cloud.check(state, str(state))


@pytest.mark.parametrize("name", WALKS)
def test_no_difference_to_the_twin(name: str) -> None:
    """After every flush each node's fact is what recomputing it gives."""
    cloud = Cloud()
    for events, _ in walk(WALKS[name]):
        cloud.step(events)
        assert cloud.graph.differences() == []


def test_picture_is_the_wiring() -> None:
    """The committed picture is what the edges say."""
    assert mermaid(wire(Nodes(routes=True))) in PICTURE.read_text()


def test_address_management_is_none_of_its_business() -> None:
    """Kinds that calc does not read move the revision, and are neither sent to hosts nor a failure."""
    cloud = Cloud()
    cloud.step([ResourceSet(resource=r) for r in POLICED])
    cidr = "10.65.0.0/26"
    kinds: list[Resource] = [
        IPAMBlock(metadata=Metadata(name="10-65-0-0-26"), spec=IpamBlockSpec(cidr=cidr)),
        IPAMConfiguration(metadata=Metadata(name="default")),
        IPReservation(metadata=Metadata(name="r")),
    ]
    output = cloud.step([ResourceSet(resource=one) for one in kinds])
    assert (output.revision, output.hosts, output.shared) == (cloud.revision, (), ())
    cloud.step([ResourceRemoved(key=key_of(one)) for one in kinds])
    assert cloud.graph.take_failures() == []


def test_nothing_new_sends_nothing() -> None:
    """A flush without events sends nothing; an event that says nothing new only moves the revision."""
    cloud = Cloud()
    cloud.step([ResourceSet(resource=r) for r in POLICED])
    assert cloud.graph.flush() is None
    output = cloud.step([ResourceSet(resource=r) for r in POLICED])
    assert (output.shared, output.batches, output.hosts) == ((), (), ())
    assert output.first == output.revision - len(POLICED.resources) + 1


def test_only_concerned_hosts_get_a_batch() -> None:
    """A change of one endpoint's label goes to the hosts that use a set it is in, and its own."""
    cloud = Cloud(routes=False)
    cloud.step([ResourceSet(resource=r) for r in POLICED.with_("", endpoint("x", "h9"))])
    relabelled = endpoint("web1", "h1", "10.65.0.1/32", labels={"role": "other"})
    output = cloud.step([ResourceSet(resource=relabelled)])
    assert [batch.host for batch in output.batches] == ["h2"]
    assert len(output.shared) == 1


def test_shared_update_is_published_once() -> None:
    """However many hosts use a policy, its change is one message, and one small need for each host."""
    cloud = Cloud(routes=False)
    endpoints: list[Resource] = [endpoint(f"e{i}", f"h{i}") for i in range(20)]
    cloud.step([ResourceSet(resource=r) for r in [*endpoints, gnp("p", "all()", rule())]])
    output = cloud.step([ResourceSet(resource=gnp("p", "all()", rule("Deny")))])
    assert len(output.shared) == 1
    assert [len(batch.updates) for batch in output.batches] == [1] * 20


def test_tombstone_of_the_unknown_is_harmless() -> None:
    """A removal of what was never there changes nothing."""
    cloud = Cloud()
    cloud.step([ResourceRemoved(key=event.key) for event in _sets(TIERED)])
    cloud.check(EMPTY, "empty")


def test_resync_sweeps_what_is_gone() -> None:
    """After a snapshot, what it did not name is gone, in the same epoch, with ordinary batches."""
    cloud = Cloud()
    cloud.step(_sets(TIERED))
    graph = cloud.graph
    graph.begin_resync()
    for event in _sets(TWO_HOSTS):
        graph.on_event(event, graph.revision)
    graph.end_resync(graph.revision)
    cloud.deliver(graph.flush())
    cloud.check(TWO_HOSTS, "after the sweep")
    assert all(host.n_snapshots <= 1 for host in cloud.hosts.values())


def test_new_epoch_starts_numbers_anew() -> None:
    """A new epoch tells every host to ask, and what they are told then is the state of now."""
    cloud = Cloud()
    cloud.step(_sets(TIERED))
    cloud.graph.new_epoch("e2")
    output = cloud.deliver(cloud.graph.flush())
    assert output.first == 0
    assert {batch.number for batch in output.batches} == {1}
    assert all(batch.updates == () for batch in output.batches)
    cloud.check(TIERED, "in the new epoch")
    cloud.step([ResourceRemoved(key=event.key) for event in _sets(TIERED)])
    cloud.check(EMPTY, "emptied in the new epoch")


def test_skipped_number_makes_the_host_ask() -> None:
    """A batch that cannot be sent leaves a gap, and the gap brings a snapshot."""
    cloud = Cloud()
    cloud.step(_sets(POLICED))
    graph = cloud.graph
    before = cloud.hosts["h1"].n_snapshots
    graph.on_event(ResourceRemoved(key=next(iter(POLICED.resources))), graph.revision + 1)
    output = graph.flush()
    assert output is not None
    cloud.hosts["h1"].on_batch(graph.sequencer.skip("h1"))
    assert cloud.hosts["h1"].n_snapshots == before + 1


def test_snapshot_of_an_unknown_host_is_empty() -> None:
    """A host that nobody declared and that has no endpoint gets an empty snapshot, number 0."""
    cloud = Cloud()
    cloud.step(_sets(POLICED))
    epoch, revision = cloud.graph.sequencer.epoch, cloud.graph.revision
    assert cloud.graph.snapshot("stranger") == HostBatch(
        host="stranger", epoch=epoch, number=0, revision=revision, full=True
    )


def test_invalid_endpoint_is_absent_and_named() -> None:
    """An endpoint that is not understood is absent, is reported, and disturbs nobody else."""
    cloud = Cloud()
    bad = endpoint("web2", "h2", "not an address")
    cloud.step(_sets(POLICED.with_("", bad)))
    gone = POLICED.without("", bad)
    cloud.check(gone, "without the invalid endpoint")
    failures = cloud.graph.take_failures()
    assert [failure.key for failure in failures] == ["WorkloadEndpoint default/web2"]
    cloud.step(_sets(POLICED))
    cloud.check(POLICED, "mended")


def test_policy_with_bad_rules_denies() -> None:
    """A policy whose rules are not understood still selects, and denies."""
    graph = Graph("e")
    bad = gnp("bad", "all()", rule(source={"ports": ("named",)}, protocol="TCP"))
    for number, event in enumerate(_sets(State("", {}).with_("", bad, WEB1)), start=1):
        graph.on_event(event, number)
    graph.flush()
    value = graph.nodes.policies.out.values[next(iter(graph.nodes.policies.out))]
    assert len(graph.take_failures()) == 1
    placed = next(iter(graph.nodes.endpoints.out.values.values()))
    assert placed[1].tiers[0].ingress == ("gnp/bad",)
    assert [one.action for one in (*value.ingress, *value.egress)] == ["deny", "deny"]


def _sets(state: State) -> list[Event]:
    return [ResourceSet(resource=resource) for resource in state]
