"""Two hosts of ours and a peer of another make between them, on one link; what is declared, calc tells.

    h1 ours (172.30.0.1) ── h2 the peer (172.30.0.2) ── h3 ours (172.30.0.3)

Each host n has the block 10.65.n.0/24 and fd65::n00/120; 10.65.9.0/24 and fd65::900/120 are nobody's.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hopwall_model.bgp import Bgp
from hopwall_model.events import ResourceSet
from hopwall_model.resources import BGPPeer, Node, Resource
from hopwall_model.status import BgpSession
from tests.support.bird_hosts import AS, BirdHost, BirdHosts
from tests.support.bird_hosts import until as holds
from tests.support.calc import Cloud
from tests.support.netns import Netns
from tests.support.peers import KINDS
from tests.support.peers.peer import Link, Peer
from tests.support.states import pool
from tests.support.states_bgp import block, config, peer, speaker

FAMILIES = (4, 6)
PEER_AS = 65002
#: Of `cloud`: hosts know each other by a reflector alone.
NO_MESH: dict[str, Any] = {"node_to_node_mesh_enabled": False}
#: How long a condition may take on a busy machine, and how long a thing that must not come is waited for.
PATIENCE_S, DENIAL_S = 60.0, 6.0
AWAY_S, LOOK_S = 2.0, 4.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: what was asked, in which family, and what was seen."""

    what: str
    family: int
    seen: str


def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> float:
    """Wait until this holds; return the seconds it took."""
    began_at = time.monotonic()
    holds(condition, timeout_s)
    return time.monotonic() - began_at


def until_for(
    family: int, condition: Callable[[int], bool], timeout_s: float = PATIENCE_S
) -> float:
    """Wait until this holds of a family; return the seconds it took."""
    return until(lambda: condition(family), timeout_s)


def never(condition: Callable[[], bool], what: str, for_s: float = DENIAL_S) -> None:
    """Look for a while and see that this never holds."""
    deadline_at = time.monotonic() + for_s
    while time.monotonic() < deadline_at:
        assert not condition(), what
        time.sleep(0.2)


def rows(what: str, seen: str = "yes") -> Iterator[Row]:
    """Say the same of both families."""
    for family in FAMILIES:
        yield Row(what, family, seen)


# ---------------------------------------------------------------- names and addresses


def own(family: int, number: int, last: int | None = None) -> str:
    """Return a host's block, or a single address in it."""
    if family == 4:
        return f"10.65.{number}.0/24" if last is None else f"10.65.{number}.{last}/32"
    return f"fd65::{number:x}00/120" if last is None else f"fd65::{number:x}{last:02x}/128"


def address(family: int, number: int) -> str:
    """Return a host's address on the link."""
    return f"172.30.0.{number}" if family == 4 else f"fd30::{number}"


def node(number: int, **bgp: Any) -> Node:
    """Declare a host."""
    labels = {"rr": "yes"} if "route_reflector_cluster_id" in bgp else {}
    return speaker(f"h{number}", f"172.30.0.{number}/24", f"fd30::{number}/64", labels, **bgp)


def cloud(**mesh: Any) -> list[Resource]:
    """Declare pools, a block for each host, and the mesh."""
    blocks = [block(own(f, n), f"h{n}") for f in FAMILIES for n in (1, 2, 3)]
    given: dict[str, Any] = {"node_mesh_max_restart_time": "30s"} | mesh
    return [pool("four", "10.65.0.0/16"), pool("six", "fd65::/64"), *blocks, config(**given)]


def fabric_peers(**more: Any) -> list[BGPPeer]:
    """Declare the peer as a machine that is none of ours, with an AS number of its own."""
    return [
        peer(f"tor{f}", node="h1", peer_ip=address(f, 2), **({"as_number": PEER_AS} | more))
        for f in FAMILIES
    ]


def link(family: int, there: int = 1, **more: Any) -> Link:
    """Return the session from the peer to one of our hosts, internal where nothing else is said."""
    given: dict[str, Any] = {
        "family": family,
        "here": address(family, 2),
        "there": address(family, there),
        "local_as": AS,
        "remote_as": AS,
    }
    return Link(**(given | more))


def links(*there: int, **more: Any) -> list[Link]:
    """Return its sessions of both families, with h1 where nothing else is said."""
    return [link(family, n, **more) for n in there or (1,) for family in FAMILIES]


def told(resources: list[Resource], host: str) -> Bgp:
    """Return what calc tells a host's daemon when this is declared."""
    calc = Cloud(routing="bgp")
    calc.step([ResourceSet(resource=one) for one in resources])
    bgp = calc.hosts[host].state().bgp
    assert bgp is not None
    return bgp


# ---------------------------------------------------------------- the scene


class Scene:
    """The three namespaces, and the peer."""

    def __init__(self, kind: str, folder: Path) -> None:
        """Choose the make; nothing runs before the `with`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.hosts = BirdHosts("interop", folder, 3)
        self._kind = kind
        self._stack = contextlib.ExitStack()
        self.peer: Peer
        self.values: dict[int, Bgp] = {}

    def __enter__(self) -> Self:
        """Make everything; no daemon runs yet."""
        self._stack.enter_context(self.hosts)
        self.peer = KINDS[self._kind](self.hosts[2])
        self._stack.callback(lambda: self.peer.close())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End and remove everything."""
        self._stack.__exit__(kind, error, trace)

    @property
    def ours(self) -> BirdHost:
        """Our first host."""
        return self.hosts[1]

    def another_peer(self) -> Peer:
        """End the peer and return one that knows nothing."""
        self.peer.close()
        self.peer = KINDS[self._kind](self.hosts[2])
        return self.peer

    def declare(self, *resources: Resource, at: tuple[int, ...] = (1,)) -> None:
        """Make the daemons of these hosts do what calc tells them."""
        for number in at:
            value = told(list(resources), f"h{number}")
            if number not in self.values:
                self.hosts[number].start()
            self.values[number] = value
            self.hosts[number].configure(value)

    def state(self, family: int) -> BgpSession:
        """Return how our first host sees its session with the peer."""
        it = address(family, 2)
        name = next(s.name for s in self.values[1].sessions if s.peer_ip == it)
        return self.ours.see(self.values[1]).sessions[name]

    def refused(self, family: int) -> set[str]:
        """Return what reached our first host and was refused by its filters."""
        text = self.ours.ask(f"show route filtered table master{family}").text
        return {line.split()[0] for line in text.splitlines() if "/" in line.split(" ")[0]}

    def in_kernel(self, family: int, number: int = 1) -> dict[str, str]:
        """Return what BIRD wrote on a host: network → the gateway, "" for a black hole."""
        full = 32 if family == 4 else 128
        found = {}
        for to, rest in self.hosts[number].learnt(family).items():
            words = rest.split()
            found[to if "/" in to else f"{to}/{full}"] = words[1] if words[0] == "via" else ""
        return found

    def link_local(self, number: int) -> str:
        """Return the link-local address of a host, which daemons may take for its next hop."""
        shown = self.hosts[number].ns.run(["ip", "-j", "-6", "address", "show", "dev", "eth0"])
        infos = json.loads(shown)[0]["addr_info"]
        return str(next(one["local"] for one in infos if one["scope"] == "link"))

    def learns(self, wanted: dict[str, str], family: int, number: int = 1) -> None:
        """Wait until BIRD wrote just these, besides the host's own block."""
        mine = own(family, number)

        def found() -> dict[str, str]:
            return {n: g for n, g in self.in_kernel(family, number).items() if n != mine}

        try:
            until(lambda: found() == wanted)
        except AssertionError:
            raise AssertionError(f"h{number} has {found()}, not {wanted}") from None

    def tells(self, network: str, family: int, **wanted: Any) -> None:
        """Wait until the peer has learnt a network with these attributes."""

        def says() -> bool:
            route = self.peer.learnt(family).get(network)
            return route is not None and all(getattr(route, k) == v for k, v in wanted.items())

        try:
            until(says)
        except AssertionError:
            raise AssertionError(
                f"the peer has {self.peer.learnt(family)}, not {network} {wanted}"
            ) from None


@contextlib.contextmanager
def lost(ns: Netns, file: Path, networks: set[str]) -> Iterator[dict[str, float]]:
    """Collect those of the networks whose route leaves a kernel while this lasts: for how long.

    Units: seconds; to the end where it does not come back.
    """
    found: dict[str, float] = {}
    with file.open("w") as out:
        monitor = subprocess.Popen(
            ns.command(["ip", "-ts", "-o", "monitor", "route"]),
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3)
        yield found
        time.sleep(0.3)
        monitor.terminate()
        monitor.wait()
    gone_at: dict[str, float] = {}
    for line in file.read_text().splitlines():
        stamp, _, rest = line[1:].partition("]")
        words = [word for word in rest.split() if word not in ("unicast", "blackhole")]
        at = datetime.fromisoformat(stamp).timestamp()
        to = words[words[0] == "Deleted"]
        network = to if "/" in to else f"{to}/{128 if ':' in to else 32}"
        if network in networks and words[0] == "Deleted":
            gone_at[network] = at
        elif network in gone_at:
            found[network] = max(found.get(network, 0.0), at - gone_at.pop(network))
    ended_at = datetime.now().timestamp()  # noqa: DTZ005 - the monitor says local time too
    found.update({network: ended_at - at for network, at in gone_at.items()})
