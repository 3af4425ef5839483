"""A plain BIRD, configured by hand: nothing of ours is in its configuration."""

import re
from collections.abc import Sequence
from typing import ClassVar

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


class BirdPeer(Peer):
    """BIRD 2 with a configuration of its own."""

    kind: ClassVar[str] = "bird"
    title: ClassVar[str] = "BIRD"

    @classmethod
    def version(cls) -> str:
        """Return the daemon's version."""
        return first_line(["bird", "--version"]).removeprefix("BIRD version ")

    def launch(self) -> None:
        """Start, with -R after a crash."""
        self.host.config.write_text(self._text())
        self.host.start()
        self._processes = [self.host.process]

    def tell(self, added: Sequence[Said], gone: Sequence[Said]) -> None:
        """Configure anew."""
        self.host.config.write_text(self._text())
        assert self.host.ask("configure").ok

    def state(self, link: Link) -> str:
        """Ask for the protocol."""
        lines = self.host.ask(f"show protocols {_name(link)}").text.splitlines()
        return (
            "Established"
            if any(line.rstrip().endswith("Established") for line in lines)
            else "down"
        )

    def learnt(self, family: int) -> dict[str, Learnt]:
        """Read the routes of the session with their attributes."""
        text = self.host.ask(f"show route table master{family} where source = RTS_BGP all").text
        found = {}
        # Each route begins with its network at the start of a line.
        for part in re.split(r"\n(?=[0-9a-f.:]+/\d)", text):
            network = re.search(r"([0-9a-f.:]+/\d+) +unicast", part)
            hop = re.search(r"BGP.next_hop: (\S+)", part)
            if network is None or hop is None:
                continue
            path = re.search(r"BGP.as_path: ?([\d ]*)", part)
            pairs = re.findall(r"\((\d+),\s?(\d+)(?:,\s?(\d+))?\)", part)
            found[network[1]] = Learnt(
                hop[1],
                frozenset(":".join(n for n in pair if n) for pair in pairs),
                tuple(map(int, path[1].split())) if path else (),
            )
        return found

    def offered(self, network: str) -> set[str]:
        """Read the next hop of each route."""
        text = self.host.ask(f"show route {network} all").text
        return set(re.findall(r"BGP.next_hop: (\S+)", text))

    def held(self, family: int) -> set[str]:
        """Read the kernel."""
        full = 32 if family == 4 else 128
        return {to if "/" in to else f"{to}/{full}" for to in self.host.learnt(family)}

    def _text(self) -> str:
        lines = ["log stderr all;", "router id 172.30.0.2;", "protocol device { scan time 2; }"]
        lines.append('protocol direct { ipv4; ipv6; interface "eth*"; }')
        if any(link.bfd for link in self.links):
            lines.append("protocol bfd { }")
        for family in sorted({link.family for link in self.links}):
            lines += self._of_family(family)
        for link in self.links:
            lines += _session(link)
        return "\n".join(lines) + "\n"

    def _of_family(self, family: int) -> list[str]:
        lines = [
            f"protocol kernel kernel{family} {{ persist on; graceful restart on;",
            f"  ipv{family} {{ import none; export where source = RTS_BGP; }}; }}",
            f"protocol static said{family} {{ ipv{family};",
        ]
        for one in of_family(self.said.values(), family):
            how = f"via {one.next_hop}" if one.next_hop else "blackhole"
            changes = "".join(
                f" bgp_community.add(({c.replace(':', ',')}));" for c in standard(one.communities)
            ) + "".join(
                f" bgp_large_community.add(({c.replace(':', ',')}));"
                for c in large(one.communities)
            )
            # Each prepending puts its number first.
            changes += "".join(f" bgp_path.prepend({n});" for n in reversed(one.as_path))
            lines.append(f"  route {one.network} {how}" + (f" {{{changes} }};" if changes else ";"))
        return [*lines, "}"]


def _name(link: Link) -> str:
    return f"peer{link.family}_{link.there[-1]}"


def _session(link: Link) -> list[str]:
    lines = [
        f"protocol bgp {_name(link)} {{",
        f"  local {link.here} port {link.port_here} as {link.local_as};",
        f"  neighbor {link.there} port {link.port_there} as {link.remote_as};",
        "  connect delay time 1; connect retry time 2; error wait time 1, 4;",
    ]
    if link.password:
        lines.append(f'  password "{link.password}";')
    if link.passive:
        lines.append("  passive on;")
    if link.hops:
        lines.append("  direct;" if link.hops == 1 else f"  multihop {link.hops};")
        lines.append("  ttl security on;")
    if link.far:
        lines.append("  multihop;")
    if link.bfd:
        # Inside an AS BIRD takes its peers to be hops away, and BFD is that of several hops then.
        near = not (link.far or link.hops)
        lines.append(f"  {'direct; ' if near else ''}bfd on;")
    if link.cluster_id:
        lines.append(f"  rr client; rr cluster id {link.cluster_id};")
    if link.restart_s:
        lines.append(f"  graceful restart on; graceful restart time {link.restart_s};")
    passed = " || source = RTS_BGP" if link.cluster_id else ""
    lines.append(
        f"  ipv{link.family} {{ import all; export where proto = "
        f'"said{link.family}"{passed}; next hop {"keep" if link.cluster_id else "self"}; }};'
    )
    return [*lines, "}"]
