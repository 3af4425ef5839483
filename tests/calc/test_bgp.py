"""What each host's BGP daemon is told: states x expanders x oracle, and what may be announced."""

from typing import Any

import pytest

from hopwall_calc.graph import Graph
from hopwall_model.bgp import Bgp, FilterRule, PrefixRange, Session
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import key_of
from hopwall_model.updates import BgpSet
from tests.support.calc import Cloud
from tests.support.expand import events_between, expand, walk
from tests.support.oracle_bgp import announceable
from tests.support.states import State, endpoint
from tests.support.states_bgp import (
    BGP_WALKS,
    BLOCKS,
    FABRIC,
    H1,
    MESH,
    MESH_SAID,
    MESH_TWINS,
    ONE_WAY,
    POOLS_OTHERWISE,
    REFLECTED,
    STRAYS,
    V6_ONLY,
    block,
    config,
    peer,
    speaker,
)


@pytest.mark.parametrize("name", BGP_WALKS)
def test_every_walk_gives_what_the_oracle_says(name: str) -> None:
    """After every flush each host's daemon is told what the dumb recompute says."""
    for how, steps in expand(BGP_WALKS[name]):
        cloud = Cloud(routing="bgp")
        for events, state in steps:
            cloud.step(events)
            cloud.check(state, f"{how}, {state}")
        assert cloud.graph.take_failures() == []


@pytest.mark.parametrize("name", BGP_WALKS)
def test_recomputing_every_node_changes_nothing(name: str) -> None:
    """A walk in which every node is recomputed at every flush tells hosts the same."""
    cloud = Cloud(routing="bgp", recompute_all=True)
    for events, state in walk(BGP_WALKS[name]):
        cloud.step(events)
        cloud.check(state, str(state))


@pytest.mark.parametrize("name", BGP_WALKS)
def test_no_difference_to_the_twin(name: str) -> None:
    """After every flush each node's fact is what recomputing it gives."""
    cloud = Cloud(routing="bgp")
    for events, _ in walk(BGP_WALKS[name]):
        cloud.step(events)
        assert cloud.graph.differences() == []


def told(state: State, host: str) -> Bgp:
    """Return what the host's daemon is told in a state."""
    cloud = Cloud(routing="bgp")
    cloud.step([ResourceSet(resource=r) for r in state])
    bgp = cloud.hosts[host].state().bgp
    assert bgp is not None
    return bgp


def session(bgp: Bgp, peer_ip: str) -> Session:
    """Return the session with an address."""
    [found] = [s for s in bgp.sessions if s.peer_ip == peer_ip]
    return found


# ---------------------------------------------------------------- who speaks with whom


def test_where_calc_spreads_the_routes_nobody_is_told_of_bgp() -> None:
    """With routing "direct" no host hears of BGP, whatever is declared."""
    cloud = Cloud()
    cloud.step([ResourceSet(resource=r) for r in FABRIC])
    assert all(host.state().bgp is None for host in cloud.hosts.values())
    assert cloud.hosts["h1"].state().routes


def test_the_mesh_is_one_session_per_pair_and_family() -> None:
    """Each two hosts have one per family that both have; one side dials, the other waits."""
    h1, h3 = told(MESH, "h1"), told(MESH, "h3")
    assert [s.name for s in h1.sessions] == [
        "mesh/h2/172.18.203.2",
        "mesh/h3/172.18.203.10",
        "mesh/h3/fd00:1::3",
        "mesh/h6/fd00:1::6",
    ]
    # The lexically greater address passes as the dialler, as in Calico: "…10" > "…1".
    assert session(h1, "172.18.203.10").passive
    assert not session(h3, "172.18.203.1").passive
    assert session(h1, "172.18.203.2").peer_as == 65001


def test_numbers_come_from_the_nearest_declaration() -> None:
    """A host's own number, its configuration's, that of all, 64512, in this order."""
    numbers = {host: told(MESH_SAID, host).as_number for host in ("h1", "h2", "h3")}
    assert numbers == {"h1": 65000, "h2": 65001, "h3": 65003}
    assert told(MESH, "h1").as_number == 64512
    assert told(MESH_SAID, "h3").listen_port == 180
    assert session(told(MESH_SAID, "h1"), "172.18.203.10").peer_port == 180


def test_a_host_without_ipv4_has_a_router_id() -> None:
    """It is made from the name, so it stays, and is never zero."""
    assert told(MESH, "h6").router_id == told(State("").with_("", V6_ONLY), "h6").router_id
    assert told(MESH, "h6").router_id not in ("0.0.0.0", "")
    assert told(MESH, "h1").router_id == "172.18.203.1"


def test_reflectors_leave_the_mesh() -> None:
    """Nobody has a mesh session with a reflector; explicit peerings lead to it, from both sides."""
    state = REFLECTED.with_("", config(node_to_node_mesh_enabled=True))
    names = {s.name for s in told(state, "h1").sessions}
    assert names == {
        "mesh/h2/172.18.203.2",
        "mesh/h3/172.18.203.10",
        "mesh/h3/fd00:1::3",
        "mesh/h6/fd00:1::6",
        "peer/to-reflectors/172.18.203.5",
        "peer/to-reflectors/172.18.203.6",
    }
    reflector = told(state, "rr")
    assert not any(s.name.startswith("mesh/") for s in reflector.sessions)
    assert reflector.cluster_id == "1.0.0.1"
    assert session(reflector, "172.18.203.1").name == "peer/to-reflectors/172.18.203.1"


def test_reflector_clients() -> None:
    """Internal peers are clients, but for reflectors of the same cluster (RFC 4456)."""
    reflector = told(REFLECTED, "rr")
    clients = {s.peer_host: s.reflector_client for s in reflector.sessions}
    # h2 is of another number: an external peer is nobody's client.
    assert clients == {"h1": True, "h2": False, "h3": True, "rr2": False, "rr3": True}
    assert not any(s.reflector_client for s in told(REFLECTED, "h1").sessions)


def test_manual_reverse_peering_leaves_the_other_side_out() -> None:
    """Then only the hosts that the peer is for get the session, and they dial."""
    assert {s.peer_host for s in told(ONE_WAY, "rr").sessions} == {"rr2", "rr3"}
    assert not any(s.passive for s in told(ONE_WAY, "h3").sessions)


def test_a_host_by_name_before_a_selector_before_all() -> None:
    """One session for each address: the nearest declaration makes it."""
    made = {h: session(told(FABRIC, h), "192.0.2.1").name for h in ("h1", "h2", "h3")}
    assert made == {
        "h1": "peer/tor/192.0.2.1",
        "h2": "peer/tor-b/192.0.2.1",
        "h3": "peer/tor-h3/192.0.2.1",
    }
    ours = session(told(FABRIC, "h1"), "172.18.203.2")
    assert (ours.name, ours.peer_host) == ("peer/one-of-ours/172.18.203.2", "h2")


def test_a_hosts_own_declaration_before_the_other_side_of_one() -> None:
    """Where two selectors name each other, each host has the session of the peering that is for it."""
    state = MESH.with_(
        "",
        peer("a", node_selector="rack == 'a'", peer_selector="rack == 'b'", bfd=True),
        peer("b", node_selector="rack == 'b'", peer_selector="rack == 'a'"),
    )
    assert session(told(state, "h1"), "172.18.203.10").name == "peer/a/172.18.203.10"
    assert session(told(state, "h3"), "172.18.203.1").name == "peer/b/172.18.203.1"


@pytest.mark.parametrize(
    ("fields", "addresses", "direct"),
    [
        ({"peer_ip": "172.18.203.99", "as_number": 1}, {}, True),
        ({"peer_ip": "172.18.204.99", "as_number": 1}, {}, False),
        ({"peer_ip": "172.18.203.99", "as_number": 1, "bfd": False}, {}, False),
        ({"peer_ip": "172.18.203.99", "as_number": 1, "ttl_security": 2}, {}, False),
        (
            {"peer_ip": "172.18.203.99", "as_number": 1, "reachable_by": "172.18.203.9"},
            {},
            False,
        ),
        ({"peer_selector": "rack == 'b'"}, {}, True),
        ({"peer_selector": "rack == 'b'"}, {"h2": "172.18.203.2/32"}, False),
        ({"peer_selector": "rack == 'b'"}, {"h1": "172.18.203.1/32"}, False),
        ({"peer_selector": "rack == 'b'"}, {"h1": "172.18.203.1"}, False),
    ],
)
def test_bfd_is_that_of_one_hop_with_who_is_on_the_link(
    fields: dict[str, Any], addresses: dict[str, str], direct: bool
) -> None:
    """As routers speak it with a neighbour; of two hosts both must say that the other is on their link."""
    moved = [speaker(name, at, "", {"rack": "ab"[name == "h2"]}) for name, at in addresses.items()]
    state = MESH.with_("", peer("a", node="h1", **({"bfd": True} | fields)), *moved)
    its = fields.get("peer_ip", "172.18.203.2")
    assert session(told(state, "h1"), its).direct is direct
    if "peer_ip" not in fields:
        assert session(told(state, "h2"), "172.18.203.1").direct is direct


def test_nobody_speaks_with_its_own_address() -> None:
    """Not with itself, and not with another host that claims the same address."""
    everybody = peer("all", node_selector="all()", peer_selector="all()")
    bgp = told(
        MESH_TWINS.with_("", everybody, peer("own", peer_ip="172.18.203.2", as_number=1)), "h2"
    )
    assert "172.18.203.2" not in {s.peer_ip for s in bgp.sessions}
    assert {s.peer_host for s in bgp.sessions} == {"h1", "h3"}


def test_a_host_that_takes_no_part_has_nothing_to_do() -> None:
    """Undeclared, without a BGP part, or gone: its daemon is told so."""
    nothing = Bgp(router_id="192.0.2.1", as_number=64512)
    assert told(MESH, "h9") == nothing
    cloud = Cloud(routing="bgp")
    cloud.step([ResourceSet(resource=r) for r in MESH])
    output = cloud.step([ResourceRemoved(key=key_of(H1)), ResourceRemoved(key=WEB1)])
    [batch] = [b for b in output.batches if b.host == "h1"]
    assert BgpSet(bgp=nothing) in batch.updates
    assert cloud.graph.snapshot("stranger").updates == (BgpSet(bgp=nothing),)


WEB1 = key_of(endpoint("web1"))


# ---------------------------------------------------------------- what is believed


@pytest.mark.parametrize(
    ("network", "may"),
    [
        ("10.65.0.64/26", True),  # its block
        ("10.65.0.70/32", True),  # an address in it, perhaps before it is aggregated
        ("10.65.1.0/26", True),
        ("10.65.9.1/32", True),  # in nobody's block
        ("10.65.200.7/32", True),  # in a block that is no host's
        ("10.65.0.5/32", False),  # in a neighbour's block
        ("10.65.0.0/26", False),  # that block
        ("10.65.0.0/27", False),
        ("10.65.0.0/16", False),  # the pool
        ("10.65.9.0/24", False),
        ("0.0.0.0/0", False),
        ("192.0.2.1/32", False),
        ("10.99.0.0/26", False),
    ],
)
def test_what_a_neighbour_may_announce(network: str, may: bool) -> None:
    """Its own blocks, single addresses in nobody's block, and nothing else."""
    h1 = told(BLOCKS, "h1")
    assert announceable(h1, session(h1, "172.18.203.2"), network) is may


def test_strays_are_believed_of_their_host_alone() -> None:
    """A borrowed, moved or floating address in another's block is its host's, to the bit."""
    h2 = told(STRAYS, "h2")
    h1, h3 = session(h2, "172.18.203.1"), session(h2, "172.18.203.10")
    for network, of_h1, of_h3 in (
        ("10.65.0.9/32", True, True),  # h1's block, borrowed by h3
        ("10.65.1.5/32", True, False),  # h2's block, moved to h1
        ("10.65.1.6/32", False, False),
        ("10.65.0.10/32", True, True),  # floating, to h3
        ("10.65.0.11/32", True, False),
    ):
        assert announceable(h2, h1, network) is of_h1, network
        assert announceable(h2, h3, network) is of_h3, network


@pytest.mark.parametrize(
    ("network", "may"),
    [
        ("10.65.0.0/26", True),
        ("10.65.0.5/32", True),
        ("10.65.0.0/23", False),
        ("10.65.0.0/27", False),
        ("10.65.0.0/16", False),
        ("0.0.0.0/0", False),
        ("10.66.0.1/32", False),
    ],
)
def test_what_a_reflector_may_pass_on(network: str, may: bool) -> None:
    """What any host might announce: blocks and addresses of announced pools."""
    h1 = told(REFLECTED, "h1")
    assert announceable(h1, session(h1, "172.18.203.5"), network) is may


@pytest.mark.parametrize(
    ("network", "may"),
    [
        ("0.0.0.0/0", True),  # named
        ("10.128.0.0/9", True),
        ("10.64.0.0/15", True),  # covers our pool, is not in it
        ("10.65.0.0/16", False),  # our pool
        ("10.65.3.0/24", False),  # accepted by name, and ours
        ("10.65.0.9/32", False),
        ("10.0.0.0/8", True),  # NotIn 198.51.100.0/24
        ("203.0.113.0/24", True),  # the same rule
    ],
)
def test_what_a_router_may_announce(network: str, may: bool) -> None:
    """What its import rules accept, and nothing in our pools; a default only where one names it."""
    h1 = told(FABRIC, "h1")
    assert announceable(h1, session(h1, "192.0.2.1"), network) is may


def test_a_router_is_asked_for_nothing_by_default() -> None:
    """Without an import filter nothing is taken; a rule for everything is not for the default route."""
    h2, h3 = told(FABRIC, "h2"), told(FABRIC, "h3")
    six = session(h3, "fd00:2::1")
    assert (six.entitled, six.imports) == ((), (FilterRule(action="reject", family=6),))
    everything = session(h3, "192.0.2.1")
    assert not announceable(h3, everything, "0.0.0.0/0")
    assert announceable(h3, everything, "0.0.0.0/1")
    assert everything.imports[-1].action == "reject"
    # "everything" accepts, and the filter that is absent rejects what is left, both ways.
    assert session(h2, "192.0.2.1").exports == (FilterRule(action="reject", family=4),)


def test_only_announced_pools_are_announced() -> None:
    """A pool with disableBGPExport is nobody's to announce; a disabled one still is: its endpoints live."""
    h1 = told(POOLS_OTHERWISE, "h1")
    assert h1.pools == ("10.65.0.0/23",)
    assert h1.blocks == ("10.65.0.0/26",)
    assert told(STRAYS, "h3").blocks == ("fd00:65::/122",)
    assert not announceable(h1, session(h1, "172.18.203.2"), "10.65.200.9/32")
    assert announceable(h1, session(h1, "172.18.203.2"), "10.65.1.0/26")


def test_what_is_unclaimed_is_said_once() -> None:
    """What any host may announce is not repeated for each session."""
    h1 = told(BLOCKS, "h1")
    assert PrefixRange("10.65.0.128/25", 32, 32) in h1.unclaimed
    assert session(h1, "172.18.203.2").entitled == (
        PrefixRange("10.65.0.64/26", 26, 32),
        PrefixRange("10.65.1.0/26", 26, 32),
        PrefixRange("10.65.0.2/32", 32, 32),  # WEB2, in h1's block
    )


def test_who_asks_reflectors_alone_is_not_told_what_is_unclaimed() -> None:
    """What a reflector may pass on does not change with each block, so its clients need not hear of it."""
    assert told(REFLECTED, "h1").unclaimed == ()
    assert told(REFLECTED, "rr").unclaimed == told(BLOCKS, "h1").unclaimed
    cloud = Cloud(routing="bgp")
    cloud.step([ResourceSet(resource=r) for r in REFLECTED])
    claimed = REFLECTED.with_("", block("10.65.3.0/26", "h3"))
    assert batches(cloud, REFLECTED, claimed) == {"h3", "rr", "rr2", "rr3"}


# ---------------------------------------------------------------- cost


def batches(cloud: Cloud, old: State, new: State) -> set[str]:
    """Return the hosts that hear of a step."""
    return {batch.host for batch in cloud.step(events_between(old, new)).batches}


def test_only_concerned_daemons_hear_of_a_change() -> None:
    """An endpoint in its host's block, a label nobody asks for: no daemon hears of it."""
    cloud = Cloud(routing="bgp")
    cloud.step([ResourceSet(resource=r) for r in REFLECTED])
    ordinary = REFLECTED.with_("", endpoint("new", "h1", "10.65.0.20/32"))
    assert batches(cloud, REFLECTED, ordinary) == {"h1"}
    labelled = ordinary.with_(
        "", speaker("h2", "172.18.203.2/24", "", {"rack": "z"}, as_number=65001)
    )
    assert batches(cloud, ordinary, labelled) == set()
    renamed = labelled.with_("", peer("other", node="h2", peer_ip="192.0.2.7", as_number=1))
    assert batches(cloud, labelled, renamed) == {"h2"}
    # A host's new stray concerns its reflectors, who hear it from the host itself.
    stray = renamed.with_("", endpoint("stray", "h3", "10.65.0.30/32"))
    assert batches(cloud, renamed, stray) == {"h3", "rr", "rr2"}


def test_the_largest_block_is_searched_for_strays() -> None:
    """Addresses that lived in nobody's block are strays once a block around them is claimed."""
    before = MESH.with_("", endpoint("stray", "h3", "10.65.8.9/32"))
    after = before.with_("", block("10.65.0.0/20", "h1"))
    cloud = Cloud(routing="bgp")
    cloud.step([ResourceSet(resource=r) for r in before])
    cloud.step(events_between(before, after))
    cloud.check(after, "a large block")
    h2 = cloud.hosts["h2"].state().bgp
    assert h2 is not None
    assert announceable(h2, session(h2, "172.18.203.10"), "10.65.8.9/32")


def test_a_peer_that_is_not_understood_is_absent_and_named() -> None:
    """A BGPPeer without a peer is reported, and makes no session."""
    graph = Graph("e", routing="bgp")
    for number, resource in enumerate(MESH.with_("", peer("bad", node="h1")), start=1):
        graph.on_event(ResourceSet(resource=resource), number)
    graph.flush()
    assert [failure.key for failure in graph.take_failures()] == ["BGPPeer bad"]
