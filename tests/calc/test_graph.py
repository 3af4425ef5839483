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
    Key,
    Metadata,
    Resource,
    key_of,
)
from hopwall_model.updates import (
    NAT_POOLS,
    POOLS,
    EndpointId,
    HostBatch,
    HostEndpointSet,
    Nat,
)
from tests.support import states
from tests.support.calc import Cloud
from tests.support.expand import events_between, expand, walk
from tests.support.states import (
    BEFORE_NAT,
    BY_NAME,
    EMPTY,
    FLOATING,
    FLOATING_LOST,
    HOSTED,
    LOGGED,
    LOGGED_OTHERWISE,
    POLICED,
    POOLED_OTHERWISE,
    TIER_MISSING,
    TIERED,
    TWO_HOSTS,
    UPLINK,
    WEB1,
    State,
    endpoint,
    gnp,
    rule,
)
from tests.support.states_moves import MOVE_WALKS

WALKS = {**states.WALKS, **MOVE_WALKS}
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
    cloud = Cloud(routing="bgp")
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
    assert mermaid(wire(Nodes(routing="bgp"))) in PICTURE.read_text()


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
    cloud = Cloud(routing="bgp")
    cloud.step([ResourceSet(resource=r) for r in POLICED.with_("", endpoint("x", "h9"))])
    relabelled = endpoint("web1", "h1", "10.65.0.1/32", labels={"role": "other"})
    output = cloud.step([ResourceSet(resource=relabelled)])
    assert [batch.host for batch in output.batches] == ["h2"]
    assert len(output.shared) == 1


def test_shared_update_is_published_once() -> None:
    """However many hosts use a policy, its change is one message, and one small need for each host."""
    cloud = Cloud(routing="bgp")
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
    bad = gnp("bad", "all()", rule(source={"ports": ("named",)}))
    for number, event in enumerate(_sets(State("", {}).with_("", bad, WEB1)), start=1):
        graph.on_event(event, number)
    graph.flush()
    value = graph.nodes.policies.out.values[next(iter(graph.nodes.policies.out))]
    assert len(graph.take_failures()) == 1
    placed = next(iter(graph.nodes.endpoints.out.values.values()))
    assert placed[1].tiers[0].ingress == ("gnp/bad",)
    assert [one.action for one in (*value.ingress, *value.egress)] == ["deny", "deny"]


def test_before_nat_policy_with_bad_rules_denies_ingress_alone() -> None:
    """A closed policy that could only be for ingress is closed there, and still selects."""
    graph = Graph("e")
    bad = gnp("bad", "all()", rule(protocol="nonsense"), **BEFORE_NAT)
    for number, event in enumerate(_sets(State("").with_("", bad, UPLINK)), start=1):
        graph.on_event(event, number)
    graph.flush()
    [(_, placed)] = graph.nodes.endpoints.out.values.values()
    assert isinstance(placed, HostEndpointSet)
    assert [(t.ingress, t.egress) for t in placed.pre_dnat] == [(("gnp/bad",), ())]
    assert placed.tiers == ()


def test_lists_of_a_host_endpoint() -> None:
    """Each policy stands in the lists of its place; what is early leaves the undecided open."""
    cloud = Cloud()
    cloud.step(_sets(HOSTED))
    [uplink] = cloud.hosts["h1"].state().host_endpoints.values()
    assert [t.name for t in uplink.tiers] == ["early", "default"]
    assert [t.ingress for t in uplink.tiers] == [
        ("gnp/forward",),
        ("gnp/own", "gnp/unspaced"),
    ]
    assert [(t.ingress, t.egress) for t in uplink.forward] == [(("gnp/forward",), ("gnp/forward",))]
    assert (uplink.forward[0].ingress_default, uplink.forward[0].egress_default) == ("deny", "pass")
    assert [t.ingress for t in uplink.pre_dnat] == [("gnp/before-nat",)]
    assert [t.egress for t in uplink.untracked] == [(), ("gnp/untracked",)]
    for early in (*uplink.pre_dnat, *uplink.untracked):
        assert (early.ingress_default, early.egress_default) == ("pass", "pass")
    assert uplink.force
    [everything] = cloud.hosts["h9"].state().host_endpoints.values()
    assert everything.untracked == ()
    [workload] = cloud.hosts["h1"].state().endpoints.values()
    applied = {policy for tier in workload.tiers for policy in tier.ingress}
    assert not applied & {"gnp/untracked-early", "gnp/before-nat"}


def test_members_of_named_ports() -> None:
    """Each owner of the name is in the set of its protocol; a name nobody has is an empty set."""
    cloud = Cloud()
    cloud.step(_sets(BY_NAME))
    found = sorted(sorted(members) for members in cloud.hosts["h1"].state().port_sets.values())
    web = ["10.65.0.1,6:8080", "10.65.0.1,6:8081"]
    host = ["172.18.203.1,6:80", "fd00:1::1,6:80"]
    assert found == [
        [],  # SCTP "nobody"
        [],  # UDP "http"
        web,  # TCP "http" of the web role
        [*web, *host],
        ["10.65.0.2,17:53", "fd00::2,17:53"],
        ["172.18.203.1,6:53", "fd00:1::1,6:53"],
        host,  # TCP "http" of the db role
    ]


def test_floating_address_is_lost_with_either_side() -> None:
    """It is routed to its owner's host, is in no selector's set, and goes with what it leads to."""
    cloud = Cloud()
    cloud.step(_sets(FLOATING))
    [web1] = cloud.hosts["h1"].state().endpoints.values()
    assert web1.nats[0] == Nat("192.0.2.1/32", "10.65.0.1/32")
    h2 = cloud.hosts["h2"].state()
    assert h2.endpoints[EndpointId("default/web2")].nats == (
        Nat("192.0.2.2/32", "10.65.0.2/32"),
        Nat("192.0.2.3/32", "10.65.0.3/32"),
    )
    assert "192.0.2.1/32" in h2.routes["h1"][2]
    assert not any("192.0.2.1/32" in members for members in h2.sets.values())
    cloud.step(events_between(FLOATING, FLOATING_LOST))
    nats = cloud.hosts["h2"].state().endpoints[EndpointId("default/web2")].nats
    assert nats == (Nat("192.0.2.1/32", "10.65.0.2/32"),)


def test_every_host_knows_the_pools() -> None:
    """Also a host without endpoints has both sets, while there is a pool, a disabled one too."""
    cloud = Cloud()
    cloud.step(_sets(POOLED_OTHERWISE))
    sets = cloud.hosts["h7"].state().sets
    assert sets == {
        POOLS: {"10.65.0.0/16", "10.64.0.0/10", "fd00:0:0:1::/64"},
        NAT_POOLS: {"fd00:0:0:1::/64"},
    }
    cloud.step(events_between(POOLED_OTHERWISE, POLICED))
    assert POOLS not in cloud.hosts["h2"].state().sets


def test_whoever_only_logs_does_not_close() -> None:
    """A tier of Log rules ends in pass; with one more rule, or none, or no tier, it denies."""
    cloud = Cloud()
    cloud.step(_sets(LOGGED))
    db = EndpointId("default/db1")
    lost, watch = cloud.hosts["h2"].state().endpoints[db].tiers
    assert (lost.name, lost.ingress_default) == ("absent", "deny")
    assert (watch.ingress_default, watch.egress_default) == ("pass", "deny")
    cloud.step(events_between(LOGGED, LOGGED_OTHERWISE))
    _, watch = cloud.hosts["h2"].state().endpoints[db].tiers
    assert (watch.ingress_default, watch.egress_default) == ("deny", "pass")


def test_policy_without_its_tier_is_reported() -> None:
    """It denies, so somebody is told: once when it loses its tier, and again when it does so again."""
    cloud = Cloud()
    cloud.step(_sets(TIERED))
    assert cloud.graph.take_failures() == []
    cloud.step(events_between(TIERED, TIER_MISSING))
    failures = cloud.graph.take_failures()
    assert [failure.key for failure in failures] == [
        f"GlobalNetworkPolicy {name}" for name in ("a", "b", "z")
    ]
    assert all("'early' does not exist" in failure.reason for failure in failures)
    cloud.step(_sets(State("").with_("", WEB1)))
    assert cloud.graph.take_failures() == []
    cloud.step(events_between(TIER_MISSING, TIERED))
    cloud.step(events_between(TIERED, TIER_MISSING))
    assert len(cloud.graph.take_failures()) == 3


def test_removal_of_a_kind_not_known_is_skipped() -> None:
    """A newer api may know kinds that this calc does not."""
    graph = Graph("e")
    graph.on_event(ResourceRemoved(key=Key("Comet", "", "a")), 1)
    assert graph.revision == 1


def _sets(state: State) -> list[Event]:
    return [ResourceSet(resource=resource) for resource in state]
