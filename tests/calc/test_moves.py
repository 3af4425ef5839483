"""Who attracts an address while a workload moves, who is believed, and what it costs others."""

import pytest

from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.migration_specs import LiveMigrationTarget
from hopwall_model.resources import key_of
from hopwall_model.updates import EndpointId, EndpointSet
from tests.support.calc import Cloud
from tests.support.states import State, endpoint
from tests.support.states_bgp import BLOCKS
from tests.support.states_moves import (
    BACK_TWICE,
    COLD,
    DECLARED,
    GENERATIONS,
    HERE,
    LATE,
    PAIRED,
    SETTLED,
    SWITCHED,
    THERE,
    UNCLEAR,
    V4,
    V6,
    all_of,
    interface,
    migration,
)

SHARED = {V4, V6, "192.0.2.50/32"}
ARRIVED = ("default/h2-vm1-eth0", "default/move/")


def cloud_of(state: State, routing: str = "direct") -> Cloud:
    """Return a cloud in this state."""
    cloud = Cloud(routing="bgp" if routing == "bgp" else "direct")
    cloud.step([ResourceSet(resource=r) for r in state])
    return cloud


def attracts(cloud: Cloud) -> str:
    """Return the one host to which all others send the workload's addresses."""
    hosts = cloud.hosts
    found = {
        (watcher, host)
        for watcher in hosts
        for host, (_, _, cidrs) in hosts[watcher].state().routes.items()
        if cidrs >= SHARED
    }
    some = {
        host
        for watcher in hosts
        for host, (_, _, cidrs) in hosts[watcher].state().routes.items()
        if cidrs & SHARED
    }
    (host,) = {host for _, host in found}
    assert some == {host}, "a part of the addresses is elsewhere"
    return host


def part(cloud: Cloud, host: str, name: str) -> EndpointSet:
    """Return an endpoint as its host was told."""
    return cloud.hosts[host].state().endpoints[EndpointId(f"default/{name}")]


@pytest.mark.parametrize(
    ("state", "host"),
    [
        (SETTLED, "h1"),
        (DECLARED, "h1"),
        (PAIRED, "h1"),
        (SWITCHED, "h2"),
        (LATE, "h2"),
        (COLD, "h2"),
        (GENERATIONS, "h2"),
        (BACK_TWICE, "h2"),
    ],
)
def test_one_host_attracts_what_moves(state: State, host: str) -> None:
    """In each state of a move all addresses of the workload, floating ones too, are at one host for all others."""
    assert attracts(cloud_of(state)) == host


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (PAIRED, ""),
        (SWITCHED, ""),
        (DECLARED, "No endpoint is its target: "),
        ([r for r in PAIRED if key_of(r).name != "h1-vm1-eth0"], "No endpoint is its source: "),
        (UNCLEAR, "It is not clear which source belongs to which target"),
    ],
)
def test_a_migration_that_moves_nobody_says_why(state: State, why: str) -> None:
    """Until there is a pair calc names it with the reason, and then no longer."""
    found = cloud_of(state).graph.moves_nobody()
    assert [one.migration for one in found] == (["default/move"] if why else [])
    assert all(one.reason.startswith(why) for one in found)


def test_target_and_source_are_told_their_parts() -> None:
    """Both own what they share; each is told its role, its peer, and where that is."""
    cloud = cloud_of(PAIRED)
    source, target = part(cloud, "h1", "h1-vm1-eth0"), part(cloud, "h2", "h2-vm1-eth0")
    for one, role, peer, host in (
        (source, "source", target, "h2"),
        (target, "target", source, "h1"),
    ):
        assert one.addresses == (V4, V6)
        assert one.nats
        assert one.move is not None
        assert (one.move.role, one.move.peer, one.move.host) == (role, peer.id, host)
        assert set(one.move.addresses) == SHARED
        assert not one.move.switched


def test_a_host_is_believed_of_its_own_targets_alone() -> None:
    """What another host says, or says of another endpoint or migration, moves nothing; the right word does."""
    cloud = cloud_of(PAIRED)
    for host, one in (
        ("h3", ARRIVED),
        ("h1", ARRIVED),
        ("h1", ("default/h1-vm1-eth0", "default/move/")),
        ("h2", ("default/h1-vm1-eth0", "default/move/")),
        ("h2", ("default/h2-vm1-eth0", "default/other/")),
        ("h2", ("default/h2-vm1-eth0", "default/move/another-uid")),
    ):
        cloud.arrive(host, one)
        assert attracts(cloud) == "h1", (host, one)
    cloud.arrive("h2", ARRIVED)
    assert attracts(cloud) == "h2"
    moves = [part(cloud, h, f"{h}-vm1-eth0").move for h in ("h1", "h2")]
    assert all(move is not None and move.switched for move in moves)


def test_an_arrival_does_not_outlive_its_migration() -> None:
    """One that is declared anew under the same name begins with its source, though the host still says the old."""
    cloud = cloud_of(PAIRED.with_("", migration("h1", "h2", uid="1")))
    cloud.arrive("h2", ("default/h2-vm1-eth0", "default/move/1"))
    assert attracts(cloud) == "h2"
    cloud.step([ResourceSet(resource=migration("h1", "h2", uid="2"))])
    assert attracts(cloud) == "h1"


def test_both_hosts_may_announce_what_moves_before_it_does() -> None:
    """With BGP every filter knows both hosts when the pair is declared, and none changes at the switch."""
    moving = BLOCKS.with_(
        "",
        interface("h1", "10.65.0.5/32", created="2024"),
        interface("h2", "10.65.0.5/32", created="2025"),
    )
    cloud = cloud_of(moving.with_("", migration("h1", "h2")), "bgp")
    entitled = {
        session.peer_host: [r.cidr for r in session.entitled]
        for session in (
            cloud.hosts["h3"].state().bgp or pytest.fail("h3 was told nothing")
        ).sessions
        if session.family == 4
    }
    assert "10.65.0.5/32" in entitled["h2"]
    assert "10.65.0.0/26" in entitled["h1"]
    before = {host: folded.state().bgp for host, folded in cloud.hosts.items()}
    cloud.arrive("h2", ARRIVED)
    assert {host: folded.state().bgp for host, folded in cloud.hosts.items()} == before


@pytest.mark.parametrize("state", [UNCLEAR, PAIRED.without("no source", HERE)])
def test_what_is_not_clear_moves_nothing(state: State) -> None:
    """Without one clear pair nobody has a part, and each address has one owner."""
    cloud = cloud_of(state)
    told = [e for folded in cloud.hosts.values() for e in folded.state().endpoints.values()]
    assert all(e.move is None for e in told)
    owners = [e.id for e in told if V4 in e.addresses]
    assert len(owners) == 1


def test_a_move_concerns_only_the_hosts_that_must_know() -> None:
    """Declaring and switching touch the two hosts, and with `direct` who has routes to them; an endpoint nobody."""
    cloud = cloud_of(SETTLED.with_("", endpoint("x", "h9")), "bgp")
    events = [ResourceSet(resource=one) for one in (migration("h1", "h2"), THERE)]
    assert set(cloud.step(events).hosts) >= {"h1", "h2"}
    assert "h9" not in cloud.arrive("h2", ARRIVED).hosts
    assert cloud.step([ResourceSet(resource=endpoint("y", "h9"))]).hosts == ("h9",)
    gone = [ResourceRemoved(key=key_of(one)) for one in (HERE, migration("h1", "h2"))]
    assert "h9" not in cloud.step(gone).hosts


def test_all_interfaces_of_a_workload_move_by_one_migration() -> None:
    """A source that is a workload pairs each of its interfaces with the one of the target that has its address."""
    second = "10.65.0.60/32"
    moving = PAIRED.with_(
        "",
        interface("h1", second, card="eth1", created="2024"),
        interface("h2", second, card="eth1", created="2025"),
        migration(
            all_of("vm1", "h1", "openstack"), LiveMigrationTarget(selector="all()"), switch=True
        ),
    )
    cloud = cloud_of(moving)
    for card in ("eth0", "eth1"):
        move = part(cloud, "h2", f"h2-vm1-{card}").move
        assert move is not None
        assert move.peer == f"default/h1-vm1-{card}"
    assert attracts(cloud) == "h2"


def test_another_namespace_takes_nothing() -> None:
    """A migration means endpoints of its own namespace, whatever it names."""
    foreign = migration("h1", "h2", namespace="blue")
    both = PAIRED.without("", migration("h1", "h2")).with_("", foreign)
    told = cloud_of(both).hosts["h2"].state().endpoints.values()
    assert all(e.move is None for e in told)


def test_what_moved_is_lost_once_it_is_another_workloads() -> None:
    """An endpoint is told whom its address is with, also when only the owner's workload has changed."""
    owner = interface("h2", V4, name="owner", created="2020", generation=2)
    younger = interface("h1", V4, name="younger", created="2024")
    one = SETTLED.without("nothing", HERE).with_("one workload", owner, younger)
    cloud = cloud_of(one)
    cloud.check(one, "one workload")
    other = interface("h2", V4, name="owner", created="2020", generation=2, workload="other")
    cloud.step([ResourceSet(resource=other)])
    cloud.check(one.with_("two", other), "two workloads")
    [told] = [e for e in cloud.hosts["h1"].state().endpoints.values() if e.id == "default/younger"]
    assert [lost.owner for lost in told.lost] == ["default/owner"]
