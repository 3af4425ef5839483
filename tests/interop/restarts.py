"""Crashes and ends of either side, and of a reflector between: how many of fifty routes a kernel loses.

"Lost" is counted in the kernel of who has learnt the routes, by what its monitor says left it; of GoBGP, which
has no hand in a kernel, by looking at its table again and again.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hopwall_model.resources import Resource
from tests.interop.scene import (
    FAMILIES,
    NO_MESH,
    PEER_AS,
    Row,
    Scene,
    address,
    cloud,
    fabric_peers,
    link,
    links,
    lost,
    node,
    own,
    rows,
    until,
    until_for,
)
from tests.support.peers.peer import Said
from tests.support.states_bgp import accept, bgp_filter, peer

N_ROUTES = 50
BACK_AFTER_S, LOOK_S, GONE_S = 2.0, 6.0, 16.0
#: A daemon that has just come back is in recovery itself; two at once are another matter.
SETTLE_S = 6.0
NETWORKS = {f: {own(f, 9, n) for n in range(N_ROUTES)} for f in FAMILIES}
_ALL = NETWORKS[4] | NETWORKS[6]
#: Behind a router.
_BEHIND = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}
FAR = {
    4: {f"198.51.100.{n}/32" for n in range(N_ROUTES)},
    6: {f"2001:db8:1::{n:x}/128" for n in range(1, N_ROUTES + 1)},
}
_FAR = FAR[4] | FAR[6]

#: What is done to the one who goes.
CRASH, GONE, END = (
    f"killed, back after {BACK_AFTER_S:.0f} s",
    f"killed, gone for {GONE_S:.0f} s",
    "told to end",
)


def _verdicts(what: str, found: dict[str, float], note: str = "") -> Iterator[Row]:
    for f in FAMILIES:
        times = [s for net, s in found.items() if (":" in net) == (f == 6)]
        long = f" for {max(times) * 1000:.0f} ms{note}" if times else ""
        yield Row(what, f, f"{len(times)} of {N_ROUTES} lost{long}")


def _away(
    how: str, kill: Callable[[], None], end: Callable[[], None], back: Callable[[], None]
) -> None:
    """Do it, and look on for a while after all is as before."""
    if how == END:
        end()
        time.sleep(LOOK_S)
        return
    kill()
    if how == GONE:
        time.sleep(GONE_S)
        return
    time.sleep(BACK_AFTER_S)
    back()
    time.sleep(LOOK_S)


@contextlib.contextmanager
def missing(look: Callable[[], set[str]]) -> Iterator[dict[str, float]]:
    """Collect those of the networks that are missing from a table while this lasts, and for how long."""
    found: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        before = time.monotonic()
        while not ended.wait(0.15):
            now = time.monotonic()
            for network in _ALL - look():
                found[network] = found.get(network, 0.0) + now - before
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


# ---------------------------------------------------------------- two of ours


def ours(_: str, folder: Path) -> Iterator[Row]:
    """Two hosts of ours: the advertiser goes, and the receiver."""
    with Scene("bird", folder) as scene:
        declared = [*cloud(), node(1), node(3)]
        _give(scene)
        scene.declare(*declared, at=(1, 3))
        _has_all(scene, 3)
        for who, number in (("the advertiser", 1), ("the receiver", 3)):
            for how in (CRASH, GONE, END):
                if (number, how) == (1, END):
                    continue  # an orderly end of who announces says that its routes are gone
                host = scene.hosts[number]
                with lost(scene.hosts[3].ns, folder / "monitor", _ALL) as found:
                    _away(how, host.kill, host.down, partial(_back, scene, number))
                yield from _verdicts(f"{who} is {how}", found)
                if how != CRASH:
                    _back(scene, number)
                    _has_all(scene, 3)
                time.sleep(SETTLE_S)


def reflected(_: str, folder: Path) -> Iterator[Row]:
    """Two hosts of ours that know each other only by a reflector of ours, which goes."""
    rr = peer("rr", node_selector="!has(rr)", peer_selector="has(rr)", max_restart_time="30s")
    declared = [
        *cloud(**NO_MESH),
        node(1),
        node(2, route_reflector_cluster_id="2.0.0.2"),
        node(3),
        rr,
    ]
    with Scene("bird", folder) as scene:
        _give(scene)
        scene.declare(*declared, at=(1, 2, 3))
        _has_all(scene, 3)
        host = scene.hosts[2]
        for how in (CRASH, GONE):
            with lost(scene.hosts[3].ns, folder / "monitor", _ALL) as found:
                _away(how, host.kill, host.down, lambda: _back(scene, 2))
            yield from _verdicts(f"the reflector between two hosts is {how}", found)
            if how != CRASH:
                _back(scene, 2)
                _has_all(scene, 3)


def _give(scene: Scene) -> None:
    scene.ours.workload(*sorted(NETWORKS[4]))
    scene.ours.workload(*sorted(NETWORKS[6]))


def _back(scene: Scene, number: int) -> None:
    """Start a host's daemon again and wait until its sessions are up with all there is."""
    scene.hosts[number].start()

    def up() -> bool:
        seen = scene.hosts[number].see(scene.values[number]).sessions.values()
        return all(one.state == "Established" for one in seen)

    until(up)


def _has_all(scene: Scene, number: int) -> None:
    for f in FAMILIES:
        until_for(f, lambda f: NETWORKS[f] <= set(scene.in_kernel(f, number)))


# ---------------------------------------------------------------- one of ours, and the peer


def _router() -> list[Resource]:
    """Declare the peer as a router, with single addresses of its own networks let in."""
    rules = {f"import_v{f}": (accept(_BEHIND[f]),) for f in FAMILIES}
    given = fabric_peers(filters=("in",), max_restart_time="30s")
    return [*cloud(), node(1), *given, bgp_filter("in", **rules)]


def from_peer(kind: str, folder: Path) -> Iterator[Row]:
    """The peer announces, ours has learnt, and the peer goes."""
    with Scene(kind, folder) as scene:
        _far(scene, restart_s=30)
        peer_back = partial(_peer_back, scene)
        for how in (CRASH, GONE):
            with lost(scene.ours.ns, folder / "monitor", _FAR) as found:
                _away(how, scene.peer.kill, scene.peer.end, peer_back)
            yield from _verdicts(f"it announces, Hopwall has learnt: it is {how}", found)
            if how == GONE:
                peer_back()


def from_peer_here(kind: str, folder: Path) -> Iterator[Row]:
    """The peer announces, ours has learnt, and ours goes."""
    with Scene(kind, folder) as scene:
        why = scene.peer.cannot.get("wait", "")
        _far(scene, restart_s=30 if scene.peer.cannot.get("help") else 0)
        for how in (CRASH, GONE, END):
            with lost(scene.ours.ns, folder / "monitor", _FAR) as found:
                _away(how, scene.ours.kill, scene.ours.down, lambda: _back(scene, 1))
            note = f": {why}" if why and how == CRASH else ""
            yield from _verdicts(
                f"it announces, Hopwall has learnt: our BIRD is {how}", found, note
            )
            if how == GONE:
                _back(scene, 1)
                _has_far(scene)
            time.sleep(SETTLE_S)


def _far(scene: Scene, restart_s: int) -> None:
    """Let the peer announce what is behind it, and ours learn it."""
    scene.peer.announce(*(Said(net) for net in sorted(_FAR)))
    scene.declare(*_router())
    scene.peer.start(*links(local_as=PEER_AS, restart_s=restart_s))
    _has_far(scene)


def _peer_back(scene: Scene) -> None:
    """Start the peer again, and wait until it is no longer in recovery itself."""
    scene.peer.launch()
    for f in FAMILIES:
        until_for(f, lambda f: scene.peer.established(f))
    _has_far(scene)
    time.sleep(SETTLE_S)


def _has_far(scene: Scene) -> None:
    for f in FAMILIES:
        until_for(f, lambda f: FAR[f] <= set(scene.in_kernel(f)))


def to_peer(kind: str, folder: Path) -> Iterator[Row]:
    """Ours announces, the peer has learnt: ours goes. What the peer does when it goes itself is its own."""
    with Scene(kind, folder) as scene:
        _give(scene)
        scene.declare(*_router())
        scene.peer.start(*links(local_as=PEER_AS))
        _peer_has_all(scene)
        for how in (CRASH, GONE):
            what = f"Hopwall announces, it has learnt: our BIRD is {how}"
            if why := scene.peer.cannot.get("keep"):
                scene.ours.kill()
                until(lambda: not any(scene.peer.learnt(f) for f in FAMILIES))
                yield from rows(what, f"no: {why}")
            else:
                with _watched(scene, folder) as found:
                    _away(how, scene.ours.kill, scene.ours.down, lambda: _back(scene, 1))
                yield from _verdicts(what, found)
            if how == GONE or why:
                _back(scene, 1)
            _peer_has_all(scene)


def _peer_has_all(scene: Scene) -> None:
    for f in FAMILIES:
        until_for(f, lambda f: NETWORKS[f] <= scene.peer.held(f))
    time.sleep(SETTLE_S)


@contextlib.contextmanager
def _watched(scene: Scene, folder: Path) -> Iterator[dict[str, float]]:
    """Collect what the peer loses: in its kernel, or in its table where it has no hand in one."""
    if scene.peer.in_kernel:
        with lost(scene.hosts[2].ns, folder / "monitor", _ALL) as found:
            yield found
        return
    with missing(lambda: scene.peer.held(4) | scene.peer.held(6)) as found:
        yield found


# ---------------------------------------------------------------- not for ever


def not_for_ever(kind: str, folder: Path) -> Iterator[Row]:
    """The peer dies and stays away: what it said goes after its restart time, not before."""
    restart_s = 8
    with Scene(kind, folder) as scene:
        scene.peer.announce(*(Said(own(f, 2)) for f in FAMILIES))
        scene.declare(*cloud(), node(1), node(2))
        scene.peer.start(*(link(f, restart_s=restart_s) for f in FAMILIES))
        for f in FAMILIES:
            scene.learns({own(f, 2): address(f, 2)}, f)
        scene.peer.kill()
        began_at = time.monotonic()
        for f in FAMILIES:
            until_for(f, lambda f: own(f, 2) not in scene.in_kernel(f))
            took_s = time.monotonic() - began_at
            assert took_s > restart_s - 2, took_s
            yield Row(
                f"dead for good: gone after its restart time ({restart_s} s)", f, f"{took_s:.0f} s"
            )


#: What a router of another make is held to.
PEER_CASES = (from_peer, from_peer_here, to_peer, not_for_ever)
