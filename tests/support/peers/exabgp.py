"""ExaBGP of Debian: it speaks, and has no table: what it is told goes to a program, here into a file."""

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any, ClassVar

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

#: Between ExaBGP and files: its messages into one, lines of another, a pipe, to it.
_PROGRAM = """
import os, sys, threading
pipe, log = sys.argv[1:]
def commands():
    while True:
        with open(pipe) as lines:
            for line in lines:
                sys.stdout.write(line)
                sys.stdout.flush()
threading.Thread(target=commands, daemon=True).start()
with open(log, "w") as out:
    for line in sys.stdin:
        out.write(line)
        out.flush()
os._exit(0)
"""


_PORT = 179


class ExaBgpPeer(Peer):
    """ExaBGP."""

    kind: ClassVar[str] = "exabgp"
    title: ClassVar[str] = "ExaBGP"
    in_kernel: ClassVar[bool] = False
    cannot: ClassVar[dict[str, str]] = {
        "bfd": "ExaBGP has no BFD",
        "help": "ExaBGP has graceful restart only as who restarts",
        "wait": "ExaBGP says in every OPEN that it restarts itself, so nobody waits for its routes",
        "reflect": "ExaBGP passes no route on",
        "keep": "ExaBGP has no table: it tells its program that the session is down, and that is all",
    }

    @classmethod
    def version(cls) -> str:
        """Return the daemon's version."""
        return first_line(["exabgp", "--version"]).split(":")[-1].strip()

    def launch(self) -> None:
        """Start with all routes in the configuration, so that end-of-RIB comes behind them."""
        folder = self.folder
        (folder / "program.py").write_text(_PROGRAM)
        (folder / "said.json").unlink(missing_ok=True)
        if not (folder / "commands").exists():
            os.mkfifo(folder / "commands")
        config = folder / "exabgp.conf"
        config.write_text(self._text())
        env = dict(os.environ) | {
            "exabgp_tcp_bind": " ".join(sorted({link.here for link in self.links})),
            "exabgp_tcp_port": str(self.links[0].port_here),
            "exabgp_tcp_delay": "0",
            "exabgp_daemon_user": "root",
            "exabgp_daemon_drop": "false",
            "exabgp_api_cli": "false",
            "exabgp_api_ack": "false",
        }
        self.spawn([shutil.which("exabgp") or "exabgp", str(config)], env)

    def tell(self, added: Sequence[Said], gone: Sequence[Said]) -> None:
        """Write commands to its program."""
        lines = []
        for verb, routes in (("withdraw", gone), ("announce", added)):
            lines += [
                f"neighbor {link.there} {verb} route {_route(one, link)}\n"
                for link in self.links
                for one in of_family(routes, link.family)
            ]
        with (self.folder / "commands").open("w") as pipe:
            pipe.write("".join(lines))

    def _messages(self) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / "said.json").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def state(self, link: Link) -> str:
        """Return what its program was told last."""
        there, found = link.there, "down"
        for message in self._messages():
            neighbor = message.get("neighbor", {})
            if message.get("type") == "state" and neighbor["address"]["peer"] == there:
                found = "Established" if neighbor["state"] == "up" else neighbor["state"]
        return found

    def learnt(self, family: int) -> dict[str, Learnt]:
        """Fold the updates that its program was told."""
        those = {link.there for link in self.links if link.family == family}
        found: dict[str, Learnt] = {}
        for message in self._messages():
            neighbor = message.get("neighbor", {})
            if neighbor.get("address", {}).get("peer") not in those:
                continue
            if message["type"] == "state" and neighbor["state"] == "down":
                found.clear()
            update = neighbor.get("message", {}).get("update", {})
            for networks in update.get("withdraw", {}).values():
                for one in networks:
                    found.pop(one["nlri"], None)
            for hops in update.get("announce", {}).values():
                for hop, networks in hops.items():
                    for one in networks if hop != "null" else ():
                        found[one["nlri"]] = _learnt(hop, update.get("attribute", {}))
        return found

    def _text(self) -> str:
        program = f"{shutil.which('python3')} {self.folder}/program.py"
        run = f"run {program} {self.folder}/commands {self.folder}/said.json;"
        lines = [f"process log {{ {run} encoder json; }}"]
        for link in self.links:
            lines += _neighbor(link, of_family(self.said.values(), link.family))
        return "\n".join(lines) + "\n"


def _neighbor(link: Link, routes: list[Said]) -> list[str]:
    lines = [
        f"neighbor {link.there} {{",
        f"router-id 172.30.0.2; local-address {link.here}; local-as {link.local_as};",
        f"peer-as {link.remote_as}; hold-time 90;",
    ]
    if link.password:
        lines.append(f'md5-password "{link.password}";')
    if link.port_there != _PORT:
        lines.append(f"connect {link.port_there};")
    if link.passive:
        lines.append("passive;")
    if link.hops:
        lines.append(f"outgoing-ttl 255; incoming-ttl {256 - link.hops};")
    if link.restart_s:
        lines.append(f"capability {{ graceful-restart {link.restart_s}; }}")
    lines += [f"family {{ ipv{link.family} unicast; }}"]
    lines.append("api { processes [ log ]; neighbor-changes; receive { parsed; update; } }")
    lines.append("static {")
    lines += [f"route {_route(one, link)};" for one in routes]
    return [*lines, "}", "}"]


def _route(one: Said, link: Link) -> str:
    words = [one.network, "next-hop", one.next_hop or "self"]
    if found := standard(one.communities):
        words.append(f"community [ {' '.join(found)} ]")
    if found := large(one.communities):
        words.append(f"large-community [ {' '.join(found)} ]")
    if one.as_path:
        # A path that is given is sent as it is.
        words.append(f"as-path [ {' '.join(map(str, (link.local_as, *one.as_path)))} ]")
    return " ".join(words)


def _learnt(hop: str, attributes: dict[str, Any]) -> Learnt:
    said = {":".join(map(str, one)) for one in attributes.get("community", ())}
    said |= {":".join(map(str, one)) for one in attributes.get("large-community", ())}
    path = attributes.get("as-path", [])
    numbers = path if isinstance(path, list) else [n for one in path.values() for n in one["value"]]
    return Learnt(hop, frozenset(said), tuple(numbers))
