"""GoBGP of Debian: a table of its own, and no hand in the kernel."""

import json
import signal
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from tests.support.bird_hosts import until
from tests.support.peers.peer import (
    Learnt,
    Link,
    Peer,
    Said,
    first_line,
    large,
    of_family,
    standard,
)

#: Above this the routes come from a file: each command is a process.
_MANY = 200


class GoBgpPeer(Peer):
    """GoBGP."""

    kind: ClassVar[str] = "gobgp"
    title: ClassVar[str] = "GoBGP"
    in_kernel: ClassVar[bool] = False
    #: Its command takes one IPv6 route, and is a process each time; only IPv4 can come from a file.
    most: ClassVar[dict[int, int]] = {6: 1000}
    cannot: ClassVar[dict[str, str]] = {"bfd": "GoBGP has no BFD"}

    @classmethod
    def version(cls) -> str:
        """Return the daemon's version."""
        return first_line(["gobgpd", "--version"]).removeprefix("gobgpd version ")

    def launch(self) -> None:
        """Start; the first time its routes come before its sessions, else end-of-RIB would come first.

        After a crash with -r: it says that it restarts, and holds its end-of-RIB back itself.
        """
        config = self.folder / "gobgpd.toml"
        sessions = "".join(map(_neighbor, self.links))
        again = config.exists()
        config.write_text(self._global() + (sessions if again else ""))
        (self.folder / "gobgp.sock").unlink(missing_ok=True)
        listen = f"unix://{self.folder}/gobgp.sock"
        restarts = ["-r"] if again else []
        self.spawn(["gobgpd", *restarts, "-t", "toml", "-f", str(config), "--api-hosts", listen])
        until(lambda: "AS:" in self._ask("global", check=False))
        self.tell(list(self.said.values()), ())
        if not again:
            config.write_text(self._global() + sessions)
            self._processes[0].send_signal(signal.SIGHUP)
        until(lambda: all(link.there in self._ask("neighbor", check=False) for link in self.links))

    def _global(self) -> str:
        addresses = ", ".join(sorted({f'"{link.here}"' for link in self.links}))
        return (
            f'[global.config]\nas = {self.links[0].local_as}\nrouter-id = "172.30.0.2"\n'
            f"local-address-list = [{addresses}]\nport = {self.links[0].port_here}\n"
        )

    def _ask(self, *words: str, check: bool = True) -> str:
        target = f"unix://{self.folder}/gobgp.sock"
        return self.run(["gobgp", "--target", target, *words], check=check)

    def tell(self, added: Sequence[Said], gone: Sequence[Said]) -> None:
        """Add to the table and take from it."""
        if len(many := of_family(added, 4)) > _MANY:
            path = self.folder / "said.mrt"
            path.write_bytes(_dump(many))
            self._ask("mrt", "inject", "global", str(path))
            added = of_family(added, 6)
        with ThreadPoolExecutor(4) as pool:
            for verb, routes in (("del", gone), ("add", added)):
                list(pool.map(partial(self._tell_one, verb), routes))

    def _tell_one(self, verb: str, one: Said) -> None:
        self._ask("global", "rib", "-a", f"ipv{one.family}", verb, *_words(one))

    def state(self, link: Link) -> str:
        """Ask for the neighbour."""
        text = self._ask("neighbor", link.there, check=False)
        return "Established" if "BGP state = ESTABLISHED" in text else "down"

    def learnt(self, family: int) -> dict[str, Learnt]:
        """Read the table without what it says itself."""
        text = self._ask("global", "rib", "-a", f"ipv{family}", "-j", check=False)
        table = json.loads(text) if text.startswith("{") else {}
        found = {}
        for network, paths in table.items():
            for path in paths:
                if path.get("source-id"):
                    found[network] = _learnt(path["attrs"])
        return found


def _neighbor(link: Link) -> str:
    lines = [
        "[[neighbors]]",
        "[neighbors.config]",
        f'neighbor-address = "{link.there}"',
        f"peer-as = {link.remote_as}",
        f"local-as = {link.local_as}",
    ]
    if link.password:
        lines.append(f'auth-password = "{link.password}"')
    lines += ["[neighbors.timers.config]", "connect-retry = 2", "hold-time = 90"]
    lines += ["[neighbors.transport.config]", f'local-address = "{link.here}"']
    lines += [f"remote-port = {link.port_there}", f"passive-mode = {str(link.passive).lower()}"]
    if link.far:
        lines += ["[neighbors.ebgp-multihop.config]", "enabled = true", "multihop-ttl = 64"]
    if link.hops:
        lines += ["[neighbors.ttl-security.config]", "enabled = true"]
        lines.append(f"ttl-min = {256 - link.hops}")
    if link.restart_s:
        lines += ["[neighbors.graceful-restart.config]", "enabled = true"]
        lines.append(f"restart-time = {link.restart_s}")
    if link.cluster_id:
        lines += ["[neighbors.route-reflector.config]", "route-reflector-client = true"]
        lines.append(f'route-reflector-cluster-id = "{link.cluster_id}"')
    lines += ["[[neighbors.afi-safis]]", "[neighbors.afi-safis.config]"]
    lines.append(f'afi-safi-name = "ipv{link.family}-unicast"')
    if link.restart_s:
        lines += ["[neighbors.afi-safis.mp-graceful-restart.config]", "enabled = true"]
    return "\n".join(lines) + "\n"


def _words(one: Said) -> list[str]:
    words = [one.network]
    if one.next_hop:
        words += ["nexthop", one.next_hop]
    if found := standard(one.communities):
        words += ["community", ",".join(found)]
    if found := large(one.communities):
        words += ["large-community", ",".join(found)]
    if one.as_path:
        words += ["aspath", ",".join(map(str, one.as_path))]
    return words


def _learnt(attributes: list[dict[str, Any]]) -> Learnt:
    by_type = {one["type"]: one for one in attributes}
    hop = (by_type.get(14) or by_type[3])["nexthop"]
    said = {f"{n >> 16}:{n & 0xFFFF}" for n in by_type.get(8, {}).get("communities", ())}
    for one in by_type.get(32, {}).get("value") or ():
        said.add(f"{one['ASN']}:{one['LocalData1']}:{one['LocalData2']}")
    segments = by_type.get(2, {}).get("as_paths") or ()
    return Learnt(hop, frozenset(said), tuple(n for one in segments for n in one["asns"]))


def _dump(routes: Iterable[Said]) -> bytes:
    """Write IPv4 routes as a table dump (RFC 6396, TABLE_DUMP_V2), which `gobgp mrt inject` reads."""
    router = ip_address("172.30.0.2").packed
    peers = router + struct.pack("!HH", 0, 1) + b"\x02" + router + router + struct.pack("!I", 65002)
    records = [(1, peers)]
    for number, one in enumerate(routes):
        net = ip_network(one.network)
        n_bytes = (net.prefixlen + 7) // 8
        attributes = b"\x40\x01\x01\x00" + b"\x40\x02\x00"
        attributes += b"\x40\x03\x04" + ip_address(one.next_hop or "172.30.0.2").packed
        entry = struct.pack("!HIH", 0, 0, len(attributes)) + attributes
        prefix = bytes([net.prefixlen]) + net.network_address.packed[:n_bytes]
        records.append((2, struct.pack("!I", number) + prefix + struct.pack("!H", 1) + entry))
    return b"".join(struct.pack("!IHHI", 0, 13, kind, len(body)) + body for kind, body in records)
