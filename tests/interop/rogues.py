"""A peer that lies: what it has no right to announce stays out, whatever it is to us and whoever made it.

Each time it announces one thing it is entitled to as well: when that has come in, what is not there was refused.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hopwall_model.bgp_specs import PrefixLength
from hopwall_model.resources import Resource
from tests.interop.scene import (
    FAMILIES,
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
    until_for,
)
from tests.support.peers.peer import Link, Said
from tests.support.states_bgp import accept, bgp_filter, password, peer

N_FLOOD = 100_000
#: Some makes take their time to say so much.
FLOOD_S = 240.0

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
POOL = {4: "10.65.0.0/16", 6: "fd65::/64"}
FOREIGN = {4: "198.51.100.0/24", 6: "2001:db8:1::/48"}
MARTIAN = {4: "169.254.7.0/24", 6: "::7:0/120"}
FABRIC = {4: "203.0.113.0/24", 6: "2001:db8:2::/48"}
#: Half of a host's block, and an address in it.
HALF = {4: "10.65.{}.128/25", 6: "fd65::{}80/121"}


def _lies(family: int, relation: str) -> list[tuple[str, list[str]]]:
    """Return what a peer may not say to us: in words, and as networks."""
    full = 32 if family == 4 else 128
    always = [
        ("a default route", [DEFAULT[family]]),
        ("a foreign network", [FOREIGN[family]]),
        ("the whole pool", [POOL[family]]),
        ("a martian", [MARTIAN[family]]),
        ("the address of a host", [f"{address(family, 3)}/{full}", f"{address(family, 1)}/{full}"]),
    ]
    if relation == "host":
        half = HALF[family]
        return [
            *always,
            ("a neighbour's block", [own(family, 3)]),
            ("a more specific of a neighbour's block", [half.format(3), own(family, 3, 7)]),
            ("our own block, or a part of it", [own(family, 1), half.format(1), own(family, 1, 7)]),
        ]
    if relation == "router":
        more = [own(family, 2), own(family, 3), own(family, 3, 7), own(family, 9, 7)]
        longer = "203.0.113.0/30" if family == 4 else "2001:db8:2::/120"
        return [*always, ("anything of our pools", more), ("longer than its filter says", [longer])]
    half = HALF[family]
    return [*always, ("a part of a neighbour's block, of ours", [half.format(3), half.format(1)])]


def _declared(relation: str) -> list[Resource]:
    common = cloud(node_to_node_mesh_enabled=relation != "reflector")
    if relation == "host":
        return [*common, node(1), node(2), node(3)]
    if relation == "router":
        lengths: dict[int, Any] = {4: (24, 28), 6: (48, 64)}
        rules = {
            f"import_v{f}": (
                accept(FABRIC[f], prefix_length=PrefixLength(min=lengths[f][0], max=lengths[f][1])),
            )
            for f in FAMILIES
        }
        given = fabric_peers(filters=("fabric",))
        return [*common, node(1), node(3), *given, bgp_filter("fabric", **rules)]
    rr = peer("rr", node_selector="!has(rr)", peer_selector="has(rr)")
    return [*common, node(1), node(2, route_reflector_cluster_id="2.0.0.2"), node(3), rr]


def _right(family: int, relation: str) -> str:
    """Return what the peer is entitled to."""
    return FABRIC[family] if relation == "router" else own(family, 2)


def _links(relation: str) -> list[Link]:
    return links(local_as=PEER_AS) if relation == "router" else links()


def lies(kind: str, folder: Path, relation: str) -> Iterator[Row]:
    """Announce everything it has no right to, beside what it may."""
    with Scene(kind, folder) as scene:
        scene.declare(*_declared(relation))
        before = {f: _all(scene, f) for f in FAMILIES}
        for f in FAMILIES:
            networks = [net for _, nets in _lies(f, relation) for net in nets]
            scene.peer.announce(*(Said(net) for net in [*networks, _right(f, relation)]))
        scene.peer.start(*_links(relation))
        for f in FAMILIES:
            scene.learns({_right(f, relation): address(f, 2)}, f)
            said = {net for _, nets in _lies(f, relation) for net in nets}
            never(partial(_differs, scene, f, before, relation), "a lie came in", 2.0)
            came = scene.refused(f) & said
            for what, nets in _lies(f, relation):
                n = len(came.intersection(nets))
                unsent = "" if n == len(nets) else f" ({len(nets) - n} did not reach the filters)"
                yield Row(what, f, f"{len(nets)} said, 0 in{unsent}")
            yield Row("what it may announce", f, "1 said, 1 in")


def _differs(scene: Scene, family: int, before: dict[int, set[str]], relation: str) -> bool:
    return _new(scene, family, before) != {_right(family, relation)}


def _new(scene: Scene, family: int, before: dict[int, set[str]]) -> set[str]:
    """Return the networks that our host's kernel did not have before."""
    return {line.split()[0] for line in _all(scene, family) - before[family]}


def _all(scene: Scene, family: int) -> set[str]:
    return set(scene.ours.all_routes(family).splitlines())


def flood(kind: str, folder: Path, relation: str) -> Iterator[Row]:
    """Announce 100,000 foreign networks."""
    with Scene(kind, folder) as scene:
        scene.declare(*_declared(relation))
        said = {f: _many(f)[: scene.peer.most.get(f)] for f in FAMILIES}
        scene.peer.announce(*(Said(net) for f in FAMILIES for net in said[f]))
        before = {f: _all(scene, f) for f in FAMILIES}
        scene.peer.start(*_links(relation))
        for f in FAMILIES:
            # GoBGP's reader of files drops some: as many as it has come, and a few may be missing.
            until_for(f, lambda f: scene.state(f).filtered >= 0.98 * len(said[f]), FLOOD_S)
            time.sleep(2)
            assert _all(scene, f) == before[f]
            n = scene.state(f).filtered
            yield Row(f"{N_FLOOD:,} foreign networks", f, f"{n:,} came, 0 in")


def _many(family: int) -> Sequence[str]:
    if family == 4:
        return [f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in range(N_FLOOD)]
    return [f"2001:db8:9::{n >> 16:x}:{n & 0xFFFF:x}/128" for n in range(N_FLOOD)]


def stranger(kind: str, folder: Path, relation: str) -> Iterator[Row]:
    """Have a wrong password, or none."""
    declared = _declared(relation)
    given = password("bgp", "all")
    if relation == "host":
        declared = [*cloud(node_mesh_password=given), node(1), node(2), node(3)]
    elif relation == "router":
        declared = [*cloud(), node(1), *fabric_peers(password=given)]
    else:
        declared[-1] = peer("rr", node_selector="!has(rr)", peer_selector="has(rr)", password=given)
    with Scene(kind, folder) as scene:
        scene.ours.secret("bgp", "all", "sesame\n")
        scene.declare(*declared)
        for word, name in (("Sesame", "a wrong password"), ("", "no password")):
            daemon = scene.another_peer()
            daemon.announce(*(Said(_right(f, relation)) for f in FAMILIES))
            daemon.start(*(replace(link, password=word) for link in _links(relation)))
            never(lambda: any(scene.state(f).state == "Established" for f in FAMILIES), "it is up")
            for f in FAMILIES:
                assert set(scene.in_kernel(f)) == {own(f, 1)}
                yield Row(name, f, "no session, 0 in")


RELATIONS = {
    "host": "A host (iBGP)",
    "reflector": "A reflector (iBGP)",
    "router": "A router (eBGP)",
}
