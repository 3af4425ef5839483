"""What a shape is, and how its frames are built."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from scapy.layers.inet import (
    IP,
    UDP,
)
from scapy.layers.inet6 import (
    IPv6,
)
from scapy.layers.l2 import Dot3, Ether
from scapy.packet import Raw

OPEN, SHUT = 7000, 7001
#: The source port of the flows that the victim b has with the remote machine and with the hostile workload.
FLOW = 5000
#: A prefix that nobody has: it must not become a route or an address of anybody.
BAD_PREFIX = "2001:db8:bad::"


class Places(NamedTuple):
    """Who has which address, and the link-layer addresses on the hostile workload's interface."""

    a: dict[int, str]
    b: dict[int, str]
    host: dict[int, str]
    remote: dict[int, str]
    own_mac: str
    host_mac: str
    b_mac: str


@dataclass(frozen=True)
class Shape:
    """One thing to send.

    Shape: `passes` are the places where it rightly arrives; only genuine ones have any.
    """

    name: str
    family: int
    frames: tuple[bytes, ...]
    passes: frozenset[str] = frozenset()


def marker(name: str, family: int) -> bytes:
    """Return what tells a shape's packets from all others; it never repeats within a run."""
    return f"<{family}:{name}>".encode()


def marker_of(shape: Shape) -> bytes:
    """Return what to look for."""
    return marker(shape.name, shape.family)


class Maker:
    """Builds the shapes of one family."""

    def __init__(self, p: Places, family: int) -> None:
        self.p, self.family = p, family
        self.ip = IP if family == 4 else IPv6
        self.ether = Ether(src=p.own_mac, dst=p.host_mac)

    def shape(
        self,
        name: str,
        *packets: Any,
        passes: tuple[str, ...] = (),
        ether: Any = None,
    ) -> Shape:
        """Put packets into frames; what is a frame already stays so."""
        frames = tuple(
            bytes(one) if isinstance(one, Ether | Dot3) else bytes((ether or self.ether) / one)
            for one in packets
        )
        return Shape(name, self.family, frames, frozenset(passes))

    def load(self, name: str) -> Any:
        """Return the payload that is looked for."""
        return Raw(marker(name, self.family))

    def udp(self, name: str, dst: str, src: str = "", port: int = OPEN) -> Any:
        """Return a plain packet of the shape."""
        head = self.ip(src=src or self.p.a[self.family], dst=dst)
        return head / UDP(sport=4000, dport=port) / self.load(name)
