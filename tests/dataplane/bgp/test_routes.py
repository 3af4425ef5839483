"""Routes between real hosts with a real BIRD each: who learns what, and what survives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_model.bgp import Advertisement, Bgp, FilterRule, PrefixRange, Session
from tests.support.bird_hosts import AS, BirdHost, BirdHosts, mesh, speaker, until

pytestmark = pytest.mark.kernel


def block(number: int) -> PrefixRange:
    """Return what a host is entitled to: its block, and what is inside."""
    return PrefixRange(f"10.65.{number}.0/24", 24, 32)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[BirdHosts]:
    """Make three hosts; nothing runs yet."""
    with BirdHosts("bgp", tmp_path, 3) as found:
        yield found


def start(host: BirdHost, bgp: Bgp) -> None:
    """Start a host's BIRD and make it do what the value says."""
    host.start()
    host.configure(bgp)


def learns(host: BirdHost, wanted: dict[str, str], family: int = 4) -> None:
    """Wait until these routes and no others are there by BIRD: destination → next hop, "" for a black hole."""

    def found() -> dict[str, str]:
        routes = host.learnt(family).items()
        return {to: r.split()[1] if r.startswith("via") else "" for to, r in routes}

    until(lambda: found() == wanted)


def test_a_mesh_learns_every_hosts_workloads_and_forgets_them(hosts: BirdHosts) -> None:
    """A route of ours on one host stands on the others, by that host, and goes when it goes."""
    hosts[1].workload("10.65.1.4/32", "10.65.1.5/32")
    for here in (1, 2, 3):
        others = [mesh(here, there, block(there)) for there in (1, 2, 3) if there != here]
        start(hosts[here], speaker(here, *others))
    learns(hosts[2], {"10.65.1.4": "172.30.0.1", "10.65.1.5": "172.30.0.1"})
    learns(hosts[3], {"10.65.1.4": "172.30.0.1", "10.65.1.5": "172.30.0.1"})
    assert all("metric 2048" in rest for rest in hosts[2].learnt().values())
    hosts[1].ns.run(["ip", "route", "del", "10.65.1.4/32"])
    learns(hosts[2], {"10.65.1.5": "172.30.0.1"})
    learns(hosts[3], {"10.65.1.5": "172.30.0.1"})
    learns(hosts[1], {})


def test_ipv6_is_spread_the_same_way(hosts: BirdHosts) -> None:
    """IPv6 host routes stand on the other host, by the other's address on the fabric."""
    hosts[1].workload("fd65::4/128")
    for here, there in ((1, 2), (2, 1)):
        session = mesh(
            here, there, PrefixRange("fd65::/64", 128, 128), family=6, peer_ip=f"fd30::{there}"
        )
        start(hosts[here], speaker(here, session))
    learns(hosts[2], {"fd65::4": "fd30::1"}, family=6)


def test_a_local_workload_wins_over_what_a_peer_says(hosts: BirdHosts) -> None:
    """Where the same address is announced by a peer, packets go to the workload here, and others are told so."""
    for here, there in ((1, 2), (2, 1)):
        hosts[here].workload("10.65.1.4/32", "fd65::4/128")
        start(hosts[here], speaker(here, mesh(here, there, PrefixRange("10.65.0.0/16", 32, 32))))
    hosts[2].workload("10.65.1.9/32")
    learns(hosts[1], {"10.65.1.9": "172.30.0.2"})
    for host in (hosts[1], hosts[2]):
        assert "dev tap0" in host.ns.run(["ip", "route", "get", "10.65.1.4"])
    seen = hosts[1].see(speaker(1, mesh(1, 2)))
    assert seen.sessions["mesh/h2"].exported == 1


def test_blocks_go_out_as_one_route_and_are_black_holes_here(hosts: BirdHosts) -> None:
    """A block is announced whole; what is inside stays inside, what was borrowed from elsewhere goes out."""
    hosts[1].workload("10.65.1.4/32", "10.65.9.4/32", "192.168.7.7/32")
    one = speaker(1, mesh(1, 2, block(2)), blocks=("10.65.1.0/24",))
    two = speaker(2, mesh(2, 1, PrefixRange("0.0.0.0/0", 0, 32)))
    start(hosts[1], one)
    start(hosts[2], two)
    learns(hosts[2], {"10.65.1.0/24": "172.30.0.1", "10.65.9.4": "172.30.0.1"})
    learns(hosts[1], {"10.65.1.0/24": ""})
    assert "blackhole 10.65.1.0/24" in hosts[1].all_routes()


def test_a_reflector_passes_on_what_its_clients_say(hosts: BirdHosts) -> None:
    """Clients learn each other's routes by the reflector, with the client itself as next hop."""

    def client(here: int) -> Bgp:
        session = mesh(
            here, 1, PrefixRange("10.65.0.0/16", 24, 32), name="peer/reflector/172.30.0.1"
        )
        return speaker(here, session)

    to = [
        Session(
            name=f"peer/clients/172.30.0.{n}",
            family=4,
            peer_ip=f"172.30.0.{n}",
            peer_as=AS,
            local_as=AS,
            peer_host=f"h{n}",
            reflector_client=True,
            entitled=(block(n),),
        )
        for n in (2, 3)
    ]
    hosts[2].workload("10.65.2.4/32")
    hosts[3].workload("10.65.3.4/32", "10.65.2.9/32")  # the second is not this client's
    start(hosts[1], speaker(1, *to, cluster_id="1.0.0.1"))
    for n in (2, 3):
        start(hosts[n], client(n))
    learns(hosts[2], {"10.65.3.4": "172.30.0.3"})
    learns(hosts[3], {"10.65.2.4": "172.30.0.2"})


def test_who_is_no_reflector_passes_nothing_on(hosts: BirdHosts) -> None:
    """What a host learnt from one peer it does not tell another, unless a filter of the user says so."""

    def edge(here: int, there: int, local: int, remote: int, **more: object) -> Session:
        name = f"peer/edge/172.30.0.{there}"
        given = {"name": name, "local_as": local, "peer_as": remote} | more
        return mesh(here, there, PrefixRange("10.65.0.0/16", 32, 32), **given)

    hosts[2].workload("10.65.2.4/32")
    outward = edge(1, 3, AS, 65003)
    start(hosts[1], speaker(1, edge(1, 2, AS, 65002), outward))
    start(hosts[2], speaker(2, edge(2, 1, 65002, AS), as_number=65002))
    start(hosts[3], speaker(3, edge(3, 1, 65003, AS), as_number=65003))
    learns(hosts[1], {"10.65.2.4": "172.30.0.2"})
    hosts[1].workload("10.65.1.4/32")
    learns(hosts[3], {"10.65.1.4": "172.30.0.1"})
    rule = FilterRule(
        action="accept", family=4, from_peers=True, add_communities=("65000:1",),
        prepend_as_path=(65010, 65011),
    )  # fmt: skip
    advertised = (Advertisement(cidr="10.65.2.0/24", communities=("65000:2", "1:2:3")),)
    transit = edge(1, 3, AS, 65003, exports=(rule,))
    hosts[1].configure(speaker(1, edge(1, 2, AS, 65002), transit, advertisements=advertised))
    until(lambda: "10.65.2.4" in hosts[3].learnt())
    said = hosts[3].ask("show route for 10.65.2.4 all").text
    assert "BGP.as_path: 64512 65010 65011 65002" in said
    assert "BGP.community: (65000,1) (65000,2)" in said
    assert "BGP.large_community: (1, 2, 3)" in said


def test_user_filters_take_away_within_what_is_entitled(hosts: BirdHosts) -> None:
    """An import rule rejects what it matches; an accept opens nothing the peer is not entitled to."""
    hosts[1].workload("10.65.1.4/32", "10.65.1.5/32", "10.65.3.4/32")
    rules = (
        FilterRule(action="reject", family=4, operator="equal", cidr="10.65.1.5/32"),
        FilterRule(action="accept", family=4, operator="in", cidr="10.65.0.0/16"),
    )
    start(hosts[1], speaker(1, mesh(1, 2, block(2))))
    start(hosts[2], speaker(2, mesh(2, 1, block(1), imports=rules)))
    learns(hosts[2], {"10.65.1.4": "172.30.0.1"})
    two = speaker(2, mesh(2, 1, block(1), imports=rules))
    until(lambda: hosts[2].see(two).sessions["mesh/h1"].filtered == 2)


def test_export_rules_decide_what_a_peer_is_told(hosts: BirdHosts) -> None:
    """An export rule can hold back a route of ours, and let one inside a block escape it."""
    hosts[1].workload("10.65.1.4/32", "10.65.1.5/32", "10.65.9.9/32")
    rules = (
        FilterRule(action="accept", family=4, operator="equal", cidr="10.65.1.4/32"),
        FilterRule(action="reject", family=4, operator="not-in", cidr="10.65.1.0/24"),
    )
    one = speaker(1, mesh(1, 2, block(2), exports=rules), blocks=("10.65.1.0/24",))
    start(hosts[1], one)
    start(hosts[2], speaker(2, mesh(2, 1, PrefixRange("10.65.0.0/16", 16, 32))))
    learns(hosts[2], {"10.65.1.0/24": "172.30.0.1", "10.65.1.4": "172.30.0.1"})


def test_what_is_in_no_block_any_of_our_hosts_may_announce(hosts: BirdHosts) -> None:
    """Unclaimed host routes are taken from hosts, and from no machine that is none of ours."""
    unclaimed = (PrefixRange("10.65.9.0/24", 32, 32),)
    for n in (2, 3):
        hosts[n].workload(f"10.65.{n}.4/32", f"10.65.9.{n}/32", f"10.65.8.{n}/32")
        start(hosts[n], speaker(n, mesh(n, 1)))
    ours = mesh(1, 2, block(2), peer_host="h2")
    stranger = mesh(1, 3, block(3), name="peer/stranger/172.30.0.3")
    start(hosts[1], speaker(1, ours, stranger, unclaimed=unclaimed))
    wanted = {"10.65.2.4": "172.30.0.2", "10.65.9.2": "172.30.0.2", "10.65.3.4": "172.30.0.3"}
    learns(hosts[1], wanted)
