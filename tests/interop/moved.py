"""A workload that was created elsewhere, as a router sees it: two hosts of ours announce one address for a while.

The old host announces it until it has heard from calc: milliseconds, or for as long as it is cut off. What the
router makes of two routes that are alike is its own; what it does when the old one goes is held to.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.interop.scene import (
    FAMILIES,
    PEER_AS,
    Row,
    Scene,
    address,
    cloud,
    fabric_peers,
    links,
    lost,
    node,
    own,
    rows,
    until_for,
)
from tests.support.states_bgp import peer

_OLD_NEW = ((1, 3), (3, 1))
#: From a daemon's table to its kernel.
_SETTLE_S = 1.0


def cold(kind: str, folder: Path) -> Iterator[Row]:
    """Be the router of both hosts; the new host has the higher address, then the lower."""
    given = [
        *fabric_peers(),
        *(peer(f"other{f}", node="h3", peer_ip=address(f, 2), as_number=PEER_AS) for f in FAMILIES),
    ]
    with Scene(kind, folder) as scene:
        if not scene.peer.in_kernel:
            title = scene.peer.title
            yield from rows("both announce it", f"no: {title} writes nothing into the kernel")
            return
        scene.declare(*cloud(), node(1), node(3), *given, at=(1, 3))
        scene.peer.start(*links(1, 3, local_as=PEER_AS))
        for f in FAMILIES:
            until_for(f, lambda f: scene.peer.established(f))
        for n, (old, new) in enumerate(_OLD_NEW):
            yield from _moved(scene, folder, 20 + n, old, new)


def _moved(scene: Scene, folder: Path, last: int, old: int, new: int) -> Iterator[Row]:
    networks = {f: own(f, 9, last) for f in FAMILIES}
    which = "lower" if old < new else "higher"
    what = f"the old host has the {which} address"
    scene.hosts[old].workload(*networks.values(), index=last)
    for f in FAMILIES:
        until_for(f, partial(_goes_by, scene, networks, {old}))
    scene.hosts[new].workload(*networks.values(), index=last)
    for f in FAMILIES:
        until_for(f, partial(_both_told, scene, networks))
        time.sleep(_SETTLE_S)
        ways = _ways(scene, networks[f], f)
        word = "both" if len(ways) > 1 else "the old one" if ways == {old} else "the new one"
        yield Row(f"{what}, both announce it: it goes by", f, word)
    with lost(scene.hosts[2].ns, folder / "monitor", set(networks.values())) as gone:
        scene.hosts[old].ns.run(["ip", "link", "del", f"tap{last}"])
        for f in FAMILIES:
            until_for(f, partial(_goes_by, scene, networks, {new}))
    for f in FAMILIES:
        away = gone.get(networks[f])
        seen = "0 ms without a way" if away is None else f"{away * 1000:.0f} ms without a way"
        yield Row(f"{what}, which withdraws: it goes by the new one", f, seen)


def _ways(scene: Scene, network: str, family: int) -> set[int]:
    """Return the hosts by which the router's kernel goes."""
    found: set[int] = set()
    for route in json.loads(scene.peer.run(["ip", f"-{family}", "-j", "route", "show", network])):
        hops = {hop.get("gateway") for hop in route.get("nexthops", [route])}
        found |= {n for n in (1, 3) if hops & {address(family, n), scene.link_local(n)}}
    return found


def _goes_by(scene: Scene, networks: dict[int, str], wanted: set[int], family: int) -> bool:
    return _ways(scene, networks[family], family) == wanted


def _both_told(scene: Scene, networks: dict[int, str], family: int) -> bool:
    return len(scene.peer.offered(networks[family])) == len(_OLD_NEW[0])


#: By title, in the order of the report.
CASES: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    "A workload created elsewhere, as a router sees it": cold,
}
