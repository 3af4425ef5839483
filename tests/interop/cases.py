"""What every peer is asked, whoever made it; each case says row by row what it saw, or fails."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hopwall_model.bgp_specs import (
    AddCommunity,
    CommunityMatch,
    FilterOperation,
    PrefixAdvertisement,
    PrefixLength,
    PrependAsPath,
)
from hopwall_model.resources import BGPFilter, Resource
from tests.interop.scene import (
    FAMILIES,
    NO_MESH,
    PEER_AS,
    Row,
    Scene,
    address,
    cloud,
    fabric_peers,
    links,
    never,
    node,
    own,
    rows,
    until_for,
)
from tests.support.bird_hosts import AS
from tests.support.peers.peer import Said
from tests.support.states_bgp import accept, bgp_filter, password, peer

SAID = ("65000:1", "65000:1:2")


def host(kind: str, folder: Path) -> Iterator[Row]:
    """Be one of our hosts in the mesh: blocks and exceptions both ways, and back."""
    advertised = [PrefixAdvertisement(cidr=own(f, 1), communities=SAID) for f in FAMILIES]
    mesh = cloud(prefix_advertisements=tuple(advertised))
    with Scene(kind, folder) as scene:
        for f in FAMILIES:
            scene.ours.workload(own(f, 1, 4), own(f, 9, 4))
        scene.peer.announce(*(Said(own(f, 2)) for f in FAMILIES))
        scene.declare(*mesh, node(1), node(2))
        scene.peer.start(*links())
        for f in FAMILIES:
            yield Row("session up", f, f"{until_for(f, lambda f: scene.peer.established(f)):.1f} s")
        for f in FAMILIES:
            hop, block, outside = address(f, 1), own(f, 1), own(f, 9, 4)
            scene.tells(block, f, next_hop=hop, communities=frozenset(SAID), as_path=())
            scene.tells(outside, f, next_hop=hop)
            assert set(scene.peer.learnt(f)) == {block, outside}
            yield Row("learns our block and the /32 outside it, not the /32 inside", f, "yes")
            yield Row("sees standard and large communities of ours", f, "yes")
        for f in FAMILIES:
            scene.ours.ns.run(["ip", "route", "del", own(f, 9, 4)])
            until_for(f, lambda f: set(scene.peer.learnt(f)) == {own(f, 1)})
            yield Row("forgets what we withdraw", f, "yes")
        for f in FAMILIES:
            scene.learns({own(f, 2): address(f, 2)}, f)
            scene.peer.announce(Said(own(f, 2, 7)), Said(own(f, 9, 7)))
            both = {own(f, 2, 7): address(f, 2), own(f, 9, 7): address(f, 2)}
            scene.learns({own(f, 2): address(f, 2)} | both, f)
            yield Row(
                "its block, a /32 in it and a /32 of nobody's block come in, by its address",
                f,
                "yes",
            )
        for f in FAMILIES:
            scene.peer.withdraw(own(f, 2, 7))
            scene.learns({own(f, 2): address(f, 2), own(f, 9, 7): address(f, 2)}, f)
            yield Row("what it withdraws goes", f, "yes")


def _fabric_rules() -> BGPFilter:
    def inward(wide: str, least: int, most: int, tagged: str) -> tuple[Any, ...]:
        return (
            accept(wide, prefix_length=PrefixLength(min=least, max=most)),
            accept(tagged, communities=CommunityMatch(values=("65002:7",))),
            accept(tagged, communities=CommunityMatch(values=("65002:7:7",))),
        )

    def outward(f: int) -> tuple[Any, ...]:
        operations = (
            FilterOperation(add_community=AddCommunity(value="65000:9")),
            FilterOperation(add_community=AddCommunity(value="65000:9:9")),
            FilterOperation(prepend_as_path=PrependAsPath(prefix=(65010, 65011))),
        )
        return (accept(own(f, 1), "Equal", operations=operations),)

    return bgp_filter(
        "fabric",
        import_v4=inward("198.51.100.0/24", 25, 26, "203.0.113.0/24"),
        import_v6=inward("2001:db8:1::/48", 56, 60, "2001:db8:2::/48"),
        export_v4=outward(4),
        export_v6=outward(6),
    )


#: What a router says: network, communities, whether the filter lets it in.
_ROUTER_SAYS = {
    4: (
        ("198.51.100.0/25", (), True),
        ("198.51.100.0/24", (), False),
        ("198.51.100.64/27", (), False),
        ("203.0.113.0/25", ("65002:7",), True),
        ("203.0.113.128/26", ("65002:7:7",), True),
        ("203.0.113.192/26", ("65002:8", "65002:7:8"), False),
    ),
    6: (
        ("2001:db8:1::/56", (), True),
        ("2001:db8:1::/48", (), False),
        ("2001:db8:1:8000::/64", (), False),
        ("2001:db8:2::/56", ("65002:7",), True),
        ("2001:db8:2:100::/56", ("65002:7:7",), True),
        ("2001:db8:2:200::/56", ("65002:8", "65002:7:8"), False),
    ),
}


def fabric(kind: str, folder: Path) -> Iterator[Row]:
    """Be a router over eBGP: filters by prefix, length and community, paths."""
    with Scene(kind, folder) as scene:
        for f in FAMILIES:
            scene.ours.workload(own(f, 1, 4), own(f, 9, 4))
            scene.peer.announce(*(Said(n, "", c) for n, c, _ in _ROUTER_SAYS[f]))
        scene.declare(*cloud(), node(1), *fabric_peers(filters=("fabric",)), _fabric_rules())
        scene.peer.start(*links(local_as=PEER_AS))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
            yield Row("eBGP session up", f, "yes")
        for f in FAMILIES:
            wanted = {n: address(f, 2) for n, _, comes in _ROUTER_SAYS[f] if comes}
            scene.learns(wanted, f)
            yield Row(
                "comes in by prefix and length, and by standard and large community", f, "yes"
            )
            tagged = frozenset({"65000:9", "65000:9:9"})
            path = (AS, 65010, 65011)
            scene.tells(own(f, 1), f, next_hop=address(f, 1), communities=tagged, as_path=path)
            scene.tells(own(f, 9, 4), f, as_path=(AS,))
            yield Row("sees our AS, and what operations prepend and add", f, "yes")


def next_hop(kind: str, folder: Path) -> Iterator[Row]:
    """Be told of another host's block by us, with each next hop mode."""
    passed = {f"export_v{f}": (accept(source="RemotePeers"),) for f in FAMILIES}
    common: list[Resource] = [*cloud(), node(1), node(3), bgp_filter("transit", **passed)]
    modes: tuple[tuple[str, dict[str, Any], int], ...] = (
        ("nextHopMode Self", {"next_hop_mode": "Self"}, 1),
        ("nextHopMode Keep", {"next_hop_mode": "Keep"}, 3),
        ("nextHopMode Auto", {"next_hop_mode": "Auto"}, 1),
        ("keepOriginalNextHop", {"keep_original_next_hop": True}, 3),
    )
    with Scene(kind, folder) as scene:
        scene.declare(*common, at=(3,))
        for n, (name, fields, by) in enumerate(modes):
            scene.declare(*common, *fabric_peers(filters=("transit",), **fields))
            if n == 0:
                scene.peer.start(*links(local_as=PEER_AS))
            for f in FAMILIES:
                scene.tells(own(f, 3), f, next_hop=address(f, by))
                yield Row(
                    f"eBGP, {name}: next hop is {'ours' if by == 1 else 'the other host'}", f, "yes"
                )


def client(kind: str, folder: Path) -> Iterator[Row]:
    """Be a client of our reflector."""
    declared = [*cloud(**NO_MESH), node(1, route_reflector_cluster_id="1.0.0.1"), node(2), node(3)]
    with Scene(kind, folder) as scene:
        for name, fields, by in (("", {}, 3), (", nextHopMode Self", {"next_hop_mode": "Self"}, 1)):
            given = peer("rr", node_selector="!has(rr)", peer_selector="has(rr)", **fields)
            scene.declare(*declared, given, at=(1, 3))
            if not name:
                scene.peer.announce(*(Said(own(f, 2)) for f in FAMILIES))
                scene.peer.start(*links())
            for f in FAMILIES:
                scene.tells(own(f, 3), f, next_hop=address(f, by))
                its = {own(f, 2): address(f, 2 if by == 3 else 1)}
                scene.learns({own(f, 1): address(f, 1)} | its, f, number=3)
                whose = "the host's itself" if by == 3 else "the reflector's"
                yield Row(f"client of our reflector{name}: next hop is {whose}", f, "yes")


def reflector(kind: str, folder: Path) -> Iterator[Row]:
    """Be the reflector of our hosts."""
    rr = peer("rr", node_selector="!has(rr)", peer_selector="has(rr)")
    declared = [
        *cloud(**NO_MESH),
        node(1),
        node(2, route_reflector_cluster_id="2.0.0.2"),
        node(3),
        rr,
    ]
    with Scene(kind, folder) as scene:
        for f in FAMILIES:
            scene.hosts[3].workload(own(f, 9, 3))
        scene.declare(*declared, at=(1, 3))
        scene.peer.start(*links(1, 3, cluster_id="2.0.0.2"))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
            if why := scene.peer.cannot.get("reflect"):
                never(partial(_has, scene, f, own(f, 3)), "it reflects after all")
                yield Row("our hosts' reflector: they learn each other's routes", f, f"no: {why}")
                continue
            scene.learns({own(f, 3): address(f, 3), own(f, 9, 3): address(f, 3)}, f)
            scene.learns({own(f, 1): address(f, 1)}, f, number=3)
            yield Row("our hosts' reflector: they learn each other's routes", f, "yes")


def secret(kind: str, folder: Path) -> Iterator[Row]:
    """Have the right password, another, or none."""
    given = fabric_peers(password=password("bgp", "tor"))
    with Scene(kind, folder) as scene:
        scene.ours.secret("bgp", "tor", "sesame\n")
        scene.declare(*cloud(), node(1), *given)
        for word, name in (("Sesame", "a wrong password"), ("", "no password")):
            daemon = scene.another_peer()
            daemon.start(*links(local_as=PEER_AS, password=word))
            _never_up(scene)
            yield from rows(f"{name}: no session", "none")
        scene.another_peer().start(*links(local_as=PEER_AS, password="sesame"))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
            yield Row("the right password (TCP MD5): session up", f, "yes")


def _has(scene: Scene, family: int, network: str) -> bool:
    return network in scene.in_kernel(family)


def _never_up(scene: Scene) -> None:
    never(lambda: any(scene.state(f).state == "Established" for f in FAMILIES), "it is up")


def distance(kind: str, folder: Path) -> Iterator[Row]:
    """Prove by TTL that there is no hop between us, or do not."""
    # Each with a BIRD of its own: what closes a connection is not heard either when it is not believed.
    given = [*cloud(), node(1), *fabric_peers(ttl_security=1)]
    with Scene(kind, folder / "without") as scene:
        scene.declare(*given)
        scene.peer.start(*links(local_as=PEER_AS))
        _never_up(scene)
        yield from rows("TTL security on our side alone: no session", "none")
    with Scene(kind, folder / "with") as scene:
        scene.declare(*given)
        scene.peer.start(*links(local_as=PEER_AS, hops=1))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
            yield Row("TTL security on both sides: session up", f, "yes")


Case = Callable[[str, Path], Iterator[Row]]
#: By title, in the order of the report.
CASES: dict[str, Case] = {
    "One of our hosts (iBGP, mesh)": host,
    "A router (eBGP)": fabric,
    "Next hops": next_hop,
    "A client of our reflector": client,
    "The reflector of our hosts": reflector,
    "Password": secret,
    "TTL security": distance,
}
