"""FRR: zebra and bgpd (and bfdd where it is asked for) of Debian, without watchfrr."""

import json
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tests.support.bird_hosts import until
from tests.support.peers.peer import Learnt, Link, Peer, Said, first_line, large, standard

_DAEMONS = Path("/usr/lib/frr")
_PORT = 179


@dataclass(slots=True)
class FrrPeer(Peer):
    """FRR.

    Owner: `_zebra` lives on when bgpd is killed, as under watchfrr.
    """

    kind: ClassVar[str] = "frr"
    title: ClassVar[str] = "FRR"
    cannot: ClassVar[dict[str, str]] = {
        "wait": "FRR 8.4 says in the OPEN after a restart of ours that it restarts itself, so nobody waits for its routes"
    }

    _home: Path | None = None
    _zebra: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def version(cls) -> str:
        """Return the daemon's version."""
        return first_line([str(_DAEMONS / "bgpd"), "--version"]).removeprefix("bgpd version ")

    @property
    def home(self) -> Path:
        """A folder of the user frr's, as which the daemons run."""
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="hwt-frr-"))
            self._give(self._home)
        return self._home

    def _give(self, path: Path) -> None:
        shutil.chown(path, *pwd.getpwnam("frr")[2:4])

    def launch(self) -> None:
        """Start zebra if it is not there, then bgpd."""
        if not self._zebra:
            self._file("zebra.conf", "")
            self._daemon("zebra", "-K", "60")
            until((self.home / "zserv.api").exists)
            if any(link.bfd for link in self.links):
                self._file("bfdd.conf", "")
                self._daemon("bfdd", "--bfdctl", str(self.home / "bfdd.sock"))
            self._zebra, self._processes = self._processes, []
        self._file("bgpd.conf", self._text())
        self._daemon("bgpd", "-p", str(self.links[0].port_here))
        until(self._answers)

    def _file(self, name: str, text: str) -> None:
        path = self.home / name
        path.write_text(text)
        self._give(path)

    def _daemon(self, name: str, *flags: str) -> None:
        home = self.home
        (home / f"{name}.vty").unlink(missing_ok=True)
        common = ["-i", home / f"{name}.pid", "-z", home / "zserv.api", "--vty_socket", home]
        argv = [_DAEMONS / name, "-f", home / f"{name}.conf", *common, "-P", "0", *flags]
        self.spawn([str(word) for word in argv])

    def _answers(self) -> bool:
        return "BGP" in self._ask("show bgp summary json", check=False) or bool(
            self._ask("show bgp router json", check=False).strip()
        )

    def _ask(self, *commands: str, check: bool = True) -> str:
        told = [word for command in commands for word in ("-c", command)]
        return self.run(["vtysh", "--vty_socket", str(self.home), *told], check=check)

    def _json(self, command: str) -> Any:
        text = self._ask(command, check=False)
        try:
            return json.loads(text)
        except ValueError:
            return {}  # it is not up yet, or not any more

    def tell(self, added: Sequence[Said], gone: Sequence[Said]) -> None:
        """Change the running configuration."""
        lines = ["configure"]
        for one in added:
            lines += _route_map(one)
        lines.append(f"router bgp {self.links[0].local_as}")
        for routes, no in ((gone, "no "), (added, "")):
            for one in routes:
                lines += [f"address-family ipv{one.family} unicast", f"{no}{_network(one)}", "exit"]
        self._ask(*lines)

    def state(self, link: Link) -> str:
        """Ask for the neighbour."""
        there = link.there
        said = self._json(f"show bgp neighbors {there} json")
        return str(said.get(there, {}).get("bgpState", "down"))

    def learnt(self, family: int) -> dict[str, Learnt]:
        """Read the BGP table with its attributes, without what it says itself."""
        said = self._json(f"show bgp ipv{family} unicast json detail")
        found = {}
        for network, paths in said.get("routes", {}).items():
            for path in paths:  # the first is about the network itself
                if "aspath" in path and not path.get("local"):
                    found[network] = _learnt(path)
        return found

    def offered(self, network: str) -> set[str]:
        """Read the next hop of each route."""
        family = 6 if ":" in network else 4
        said = self._json(f"show bgp ipv{family} unicast {network} json")
        return {_next_hop(path) for path in said.get("paths", ())}

    def held(self, family: int) -> set[str]:
        """Read the kernel."""
        out = self.run(["ip", f"-{family}", "route", "show", "proto", "bgp"])
        full = 32 if family == 4 else 128
        first = (line.split()[0] for line in out.splitlines() if line[:1] not in ("\t", " ", ""))
        return {to if "/" in to else f"{to}/{full}" for to in first}

    def close(self) -> None:
        """End zebra too."""
        self.kill()
        self._processes, self._zebra = self._zebra, []
        self.kill()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def _text(self) -> str:
        lines = ["frr defaults datacenter", f"log file {self.home}/bgpd.log debugging"]
        for one in self.said.values():
            lines += _route_map(one)
        lines += [f"router bgp {self.links[0].local_as}", "bgp router-id 172.30.0.2"]
        lines += ["no bgp ebgp-requires-policy", "no bgp default ipv4-unicast"]
        lines += ["no bgp network import-check"]
        lines += _restart(self.links)
        for link in self.links:
            lines += _neighbor(link)
        for link in self.links:
            lines.append(f"address-family ipv{link.family} unicast")
            lines += [_network(one) for one in self.said.values() if one.family == link.family]
            lines.append(f"neighbor {link.there} activate")
            if link.cluster_id:
                lines.append(f"neighbor {link.there} route-reflector-client")
            lines.append("exit-address-family")
        return "\n".join([*lines, "exit"]) + "\n"


def _restart(links: Sequence[Link]) -> list[str]:
    restart_s = max(link.restart_s for link in links)
    if not restart_s:
        return []  # what it does unasked: it helps others with theirs
    return [
        "bgp graceful-restart",
        "bgp graceful-restart preserve-fw-state",
        f"bgp graceful-restart restart-time {restart_s}",
        f"bgp graceful-restart stalepath-time {restart_s * 2}",
    ]


def _neighbor(link: Link) -> list[str]:
    head = f"neighbor {link.there}"
    lines = [
        f"{head} remote-as {link.remote_as}",
        f"{head} update-source {link.here}",
        f"{head} timers connect 2",
        f"{head} advertisement-interval 0",
    ]
    if link.cluster_id:
        lines.insert(0, f"bgp cluster-id {link.cluster_id}")
    if link.password:
        lines.append(f"{head} password {link.password}")
    if link.hops:
        lines.append(f"{head} ttl-security hops {link.hops}")
    if link.port_there != _PORT:
        lines.append(f"{head} port {link.port_there}")
    if link.passive:
        lines.append(f"{head} passive")
    if link.far:
        lines.append(f"{head} ebgp-multihop 255")
    if link.bfd:
        lines.append(f"{head} bfd")
    return lines


def _name(one: Said) -> str:
    return "said-" + one.network.replace("/", "-").replace(":", "_")


def _route_map(one: Said) -> list[str]:
    if not _shaped(one):
        return []
    lines = [f"route-map {_name(one)} permit 10"]
    if found := standard(one.communities):
        lines.append(f"set community {' '.join(found)}")
    if found := large(one.communities):
        lines.append(f"set large-community {' '.join(found)}")
    if one.next_hop:
        kind = "ip next-hop" if one.family == 4 else "ipv6 next-hop global"
        lines.append(f"set {kind} {one.next_hop}")
    if one.as_path:
        lines.append(f"set as-path prepend {' '.join(map(str, one.as_path))}")
    return [*lines, "exit"]


def _shaped(one: Said) -> bool:
    return bool(one.communities or one.next_hop or one.as_path)


def _network(one: Said) -> str:
    shaped = f" route-map {_name(one)}" if _shaped(one) else ""
    return f"network {one.network}{shaped}"


def _next_hop(path: dict[str, Any]) -> str:
    # Of IPv6 the link-local next hop may stand beside the global one.
    hops = (h["ip"] for h in path["nexthops"] if h.get("scope", "global") == "global")
    return str(next(hops))


def _learnt(path: dict[str, Any]) -> Learnt:
    hop = _next_hop(path)
    said = path.get("community", {}).get("string", "").split()
    said += path.get("largeCommunity", {}).get("string", "").split()
    as_path = path["aspath"]["string"]
    numbers = () if as_path == "Local" else tuple(map(int, as_path.split()))
    return Learnt(hop, frozenset(said), numbers)
