"""Where a peer is, and by what a filter knows a route: ports, gateways, interfaces, paths.

As in `cases`, each says row by row what it saw, or fails.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hopwall_model.resources import BGPFilter
from tests.interop.scene import (
    FAMILIES,
    PEER_AS,
    Row,
    Scene,
    address,
    cloud,
    fabric_peers,
    link,
    links,
    node,
    own,
    until_for,
)
from tests.support.bird_hosts import AS
from tests.support.peers.peer import Said
from tests.support.states_bgp import accept, bgp_filter, peer, reject

OUR_PORT, ITS_PORT = 1790, 1791
#: Of another of our hosts.
OTHER_AS = 65003
#: The peer's own address, which is not of the link.
FAR_AWAY = {4: "192.0.2.2", 6: "fd99::2"}
#: What a router says: network, the path behind its own number, whether the filter lets it in.
_BY_PATH = {
    4: (
        ("198.51.100.0/25", (65020, 65021), True),
        ("198.51.100.128/26", (65020, 65021, 65022), True),
        ("198.51.100.192/26", (65021, 65020), False),
        ("203.0.113.0/24", (), False),
    ),
    6: (
        ("2001:db8:1::/64", (65020, 65021), True),
        ("2001:db8:1:1::/64", (65020, 65021, 65022), True),
        ("2001:db8:1:2::/64", (65021, 65020), False),
        ("2001:db8:2::/64", (), False),
    ),
}


def port(kind: str, folder: Path) -> Iterator[Row]:
    """Listen elsewhere than at port 179, on either side; who dials finds the other."""
    with Scene(kind, folder / "host") as scene:
        scene.declare(*cloud(listen_port=OUR_PORT), node(1), node(2))
        assert all(one.passive for one in scene.values[1].sessions)
        scene.peer.start(*links(port_here=OUR_PORT, port_there=OUR_PORT))
        for f in FAMILIES:
            until_for(f, partial(_both_up, scene))
            assert _dialled(scene, f, 2, OUR_PORT)
            assert f":{OUR_PORT} " in _listening(scene)
            assert ":179 " not in _listening(scene)
            yield Row("listenPort of all hosts: it dials us there, and not at 179", f, "yes")
    with Scene(kind, folder / "router") as scene:
        there = [
            peer(f"tor{f}", node="h1", peer_ip=_at(f, ITS_PORT), as_number=PEER_AS)
            for f in FAMILIES
        ]
        scene.declare(*cloud(), node(1), *there)
        scene.peer.start(*links(local_as=PEER_AS, port_here=ITS_PORT, passive=True))
        for f in FAMILIES:
            until_for(f, partial(_both_up, scene))
            assert _dialled(scene, f, 1, ITS_PORT)
            yield Row("peerIP with a port: we dial it there", f, "yes")


def _at(family: int, number: int) -> str:
    return f"{address(4, 2)}:{number}" if family == 4 else f"[{address(6, 2)}]:{number}"


def _both_up(scene: Scene, family: int) -> bool:
    return scene.peer.established(family) and scene.state(family).state == "Established"


def _listening(scene: Scene) -> str:
    return scene.ours.ns.run(["ss", "-Hltn"])


def _dialled(scene: Scene, family: int, by: int, to: int) -> bool:
    """Tell whether a connection stands from this side to that port of the other."""
    wanted = f"[{address(6, 3 - by)}]:{to}" if family == 6 else f"{address(4, 3 - by)}:{to}"
    found = scene.hosts[by].ns.run(["ss", "-Htn", "state", "established"])
    return any(line.split()[-1] == wanted for line in found.splitlines())


def gateway(kind: str, folder: Path) -> Iterator[Row]:
    """Be at an address that only a gateway reaches, and announce networks from there."""
    with Scene(kind, folder) as scene:
        for f in FAMILIES:
            scene.hosts[2].ns.run(["ip", "address", "add", FAR_AWAY[f], "dev", "lo"])
            scene.peer.announce(Said(behind(f)))
        rules = {f"import_v{f}": (accept(behind(f)),) for f in FAMILIES}
        far = {
            f: peer(
                f"tor{f}",
                node="h1",
                peer_ip=FAR_AWAY[f],
                as_number=PEER_AS,
                reachable_by=address(f, 2),
                filters=("in",),
            )
            for f in FAMILIES
        }
        scene.declare(*cloud(), node(1), *far.values(), bgp_filter("in", **rules))
        scene.peer.start(*(link(f, here=FAR_AWAY[f], local_as=PEER_AS, far=True) for f in FAMILIES))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
            full = 32 if f == 4 else 128
            ways = {f"{FAR_AWAY[f]}/{full}": address(f, 2), behind(f): address(f, 2)}
            scene.learns(ways, f)
            yield Row("reachableBy: session up, and its networks go by the gateway", f, "yes")
            scene.tells(own(f, 1), f, next_hop=address(f, 1), as_path=(AS,))
        scene.declare(*cloud(), node(1), bgp_filter("in", **rules))
        for f in FAMILIES:
            scene.learns({}, f)
            yield Row("reachableBy: the peer is undeclared, the way to it goes", f, "yes")


def behind(family: int) -> str:
    """Return a network behind a router."""
    return "198.51.100.0/24" if family == 4 else "2001:db8:1::/48"


def match(kind: str, folder: Path) -> Iterator[Row]:
    """Be told, and let in, by the interface of a route and by the beginning of its path."""
    with Scene(kind, folder) as scene:
        for f in FAMILIES:
            scene.ours.workload(own(f, 9, 1), index=0)
            scene.ours.workload(own(f, 9, 2), index=1)
            scene.ours.workload(own(f, 9, 3), index=12)
            scene.peer.announce(*(Said(n, as_path=path) for n, path, _ in _BY_PATH[f]))
        given = fabric_peers(filters=("match",))
        scene.declare(*cloud(), node(1), *given, _by_path(reject(interface="tap1*")))
        scene.peer.start(*links(local_as=PEER_AS))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
            scene.learns({n: address(f, 2) for n, _, comes in _BY_PATH[f] if comes}, f)
            yield Row("asPathPrefix: comes in by how its path begins", f, "yes")
        for f in FAMILIES:
            scene.tells(own(f, 9, 1), f)
            until_for(f, partial(_told, scene, lambda f: {own(f, 1), own(f, 9, 1)}))
            yield Row("interface, with *: what is behind it is held back", f, "yes")
        scene.declare(*cloud(), node(1), *given, _by_path(reject(interface="tap1")))
        for f in FAMILIES:
            rest = partial(_told, scene, lambda f: {own(f, 1), own(f, 9, 1), own(f, 9, 3)})
            until_for(f, rest)
            yield Row("interface: that one alone", f, "yes")


def _told(scene: Scene, networks: Callable[[int], set[str]], family: int) -> bool:
    return set(scene.peer.learnt(family)) == networks(family)


def _by_path(out: Any) -> BGPFilter:
    inward = (accept(as_path_prefix=(PEER_AS, 65020, 65021), interface="eth0"),)
    return bgp_filter(
        "match", import_v4=inward, import_v6=inward, export_v4=(out,), export_v6=(out,)
    )


def transit(kind: str, folder: Path) -> Iterator[Row]:
    """Be told what another of our hosts said, which has a number of its own, by how its path begins."""
    declared = [*cloud(), node(1), node(3, as_number=OTHER_AS), *fabric_peers(filters=("transit",))]

    def passed(*path: int) -> BGPFilter:
        rules = (accept(as_path_prefix=path, source="RemotePeers"),)
        return bgp_filter("transit", export_v4=rules, export_v6=rules)

    with Scene(kind, folder) as scene:
        scene.declare(*declared, passed(OTHER_AS), at=(1, 3))
        scene.peer.start(*links(local_as=PEER_AS))
        for f in FAMILIES:
            scene.tells(own(f, 3), f, as_path=(AS, OTHER_AS))
            until_for(f, partial(_told, scene, lambda f: {own(f, 1), own(f, 3)}))
            yield Row("asPathPrefix: another host's block goes out by it", f, "yes")
        scene.declare(*declared, passed(OTHER_AS, OTHER_AS))
        for f in FAMILIES:
            until_for(f, partial(_told, scene, lambda f: {own(f, 1)}))
            yield Row("asPathPrefix: of another path it stays, ours goes out still", f, "yes")


#: By title, in the order of the report.
CASES: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    "Another port": port,
    "Behind a gateway": gateway,
    "Filters by interface and path": match,
    "What other hosts said": transit,
}
