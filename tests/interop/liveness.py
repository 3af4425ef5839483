"""BFD: who is cut off is noticed in a second, on both sides, though no link goes down and nobody says anything.

The path is cut in its middle, at a port of the bridge, or our host is deaf or mute. To a peer that has no BFD the
same happens and is not noticed: so it is BFD, and nothing else, that the other rows show.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hopwall_model.resources import Resource
from tests.interop.scene import (
    FAMILIES,
    NO_MESH,
    PEER_AS,
    Row,
    Scene,
    cloud,
    fabric_peers,
    links,
    never,
    node,
    own,
    rows,
    until,
    until_for,
)
from tests.support.peers.peer import Link, Said
from tests.support.states_bgp import accept, bgp_filter, peer

#: Ours sends every 0.1 s and is dead after five. FRR takes one in 0.3 s at most, sends one in 0.3 s and is dead after
#: three. So one side knows after 1.5 s, and tells the other where it can. The rest is for looking, on a busy machine:
#: each look is some processes; hold times are 90 s and more, so it is still BFD and nothing else.
NOTICED_S = 45.0
_NETWORKS = {4: "198.51.100.0/24", 6: "2001:db8:1::/48"}
_BLOCKS = {f: own(f, 2) for f in FAMILIES}


def _router(**more: Any) -> list[Resource]:
    rules = {f"import_v{f}": (accept(_NETWORKS[f], "Equal"),) for f in FAMILIES}
    given = fabric_peers(bfd=True, filters=("in",), **more)
    return [*cloud(), node(1), *given, bgp_filter("in", **rules)]


def _reflector() -> list[Resource]:
    rr = peer("rr", node_selector="!has(rr)", peer_selector="has(rr)", bfd=True)
    return [*cloud(**NO_MESH), node(1), node(2, route_reflector_cluster_id="2.0.0.2"), rr]


def neighbour(kind: str, folder: Path) -> Generator[Row]:
    """Be a router on the link: BFD is that of one hop."""
    yield from _asked(kind, folder, _router(), links(local_as=PEER_AS, bfd=True), _NETWORKS)


def secured(kind: str, folder: Path) -> Iterator[Row]:
    """Be a router with TTL security of two hops: BFD is that of several."""
    its = links(local_as=PEER_AS, bfd=True, hops=2)
    yield from _asked(kind, folder, _router(ttl_security=2), its, _NETWORKS)


def reflector(kind: str, folder: Path) -> Iterator[Row]:
    """Be the reflector of our host."""
    yield from _asked(kind, folder, _reflector(), links(bfd=True, cluster_id="2.0.0.2"), _BLOCKS)


def _asked(
    kind: str, folder: Path, declared: list[Resource], its: list[Link], said: dict[int, str]
) -> Iterator[Row]:
    with Scene(kind, folder) as scene:
        scene.declare(*declared)
        scene.peer.announce(*map(Said, said.values()))
        why = scene.peer.cannot.get("bfd")
        scene.peer.start(*(_without_bfd(one) for one in its) if why else its)
        _wait(scene, said)
        if why:
            with _cut(scene):
                never(lambda: any(_down_here(scene, said, f) for f in FAMILIES), "it is noticed")
            yield from rows(_CUT, f"no: {why}")
            return
        for what, disturbed in ((_CUT, _cut), (_DEAF, _deaf), (_MUTE, _mute)):
            yield from _noticed(scene, said, what, disturbed)
        until(partial(_bfd_is_up, scene))
        began_at = time.monotonic()
        scene.peer.close()
        for f in FAMILIES:
            until_for(f, partial(_gone, scene, said), NOTICED_S)
            yield Row(
                "it dies: what it said is gone, in spite of graceful restart", f, _after(began_at)
            )


# ---------------------------------------------------------------- what is done


_CUT, _DEAF, _MUTE = "the path is cut", "we do not hear it, it hears us", "it does not hear us"


def _cut(scene: Scene) -> AbstractContextManager[None]:
    """Let nothing through between the two; no link goes down."""
    return scene.hosts.cut(2)


def _deaf(scene: Scene) -> AbstractContextManager[None]:
    return _dropped(scene, "INPUT", "-i")


def _mute(scene: Scene) -> AbstractContextManager[None]:
    return _dropped(scene, "OUTPUT", "-o")


@contextmanager
def _dropped(scene: Scene, chain: str, direction: str) -> Iterator[None]:
    """Drop all that our host is sent, or sends."""

    def each(verb: str) -> None:
        for tool in ("iptables", "ip6tables"):
            scene.ours.ns.run([tool, "-w", verb, chain, direction, "eth0", "-j", "DROP"])

    each("-I")
    try:
        yield
    finally:
        each("-D")


def _without_bfd(link: Link) -> Link:
    return replace(link, bfd=False)


# ---------------------------------------------------------------- what is seen


def _noticed(
    scene: Scene,
    said: dict[int, str],
    what: str,
    disturbed: Callable[[Scene], AbstractContextManager[None]],
) -> Iterator[Row]:
    _wait(scene, said)
    until(partial(_bfd_is_up, scene))
    wanted: dict[str, Callable[[int], bool]] = {
        "ours is down, its routes are gone": partial(_down_here, scene, said),
        "its side is down": lambda f: not scene.peer.established(f),
    }
    with disturbed(scene):
        began_at = time.monotonic()
        seen: dict[tuple[str, int], str] = {}
        while len(seen) < len(wanted) * len(FAMILIES):
            assert time.monotonic() - began_at < NOTICED_S, f"{what}: only {seen} in time"
            for name, holds in wanted.items():
                for f in FAMILIES:
                    if (name, f) not in seen and holds(f):
                        seen[name, f] = _after(began_at)
    for (name, f), after in sorted(seen.items()):
        yield Row(f"{what}: {name}", f, after)
    began_at = time.monotonic()
    _wait(scene, said)
    yield from rows(f"{what}, and mended: all is back", _after(began_at))


def _after(began_at: float) -> str:
    return f"after {time.monotonic() - began_at:.1f} s"


def _down_here(scene: Scene, said: dict[int, str], family: int) -> bool:
    return scene.state(family).state != "Established" and _gone(scene, said, family)


def _gone(scene: Scene, said: dict[int, str], family: int) -> bool:
    return said[family] not in scene.in_kernel(family)


def _wait(scene: Scene, said: dict[int, str]) -> None:
    for f in FAMILIES:
        until_for(f, lambda f: scene.peer.established(f) and not _gone(scene, said, f))


def _bfd_is_up(scene: Scene) -> bool:
    return scene.ours.ask("show bfd sessions").text.count("Up") == len(FAMILIES)


#: By title, in the order of the report.
CASES: dict[str, Callable[[str, Path], Iterator[Row]]] = {
    "BFD with a router on the link": neighbour,
    "BFD with a router, ttlSecurity 2": secured,
    "BFD with the reflector of our hosts": reflector,
}
