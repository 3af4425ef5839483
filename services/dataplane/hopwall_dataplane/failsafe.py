"""What no host endpoint ever closes: ports by which people, and this agent, reach the host and its like.

Pure. Source: Calico, "Protect hosts", failsafe ports: before any policy, for what the host itself sends and
receives; not for what it forwards.
"""

from dataclasses import dataclass
from typing import Final

from hopwall_dataplane.outcome import Family
from hopwall_model.cidr import Cidr, contains, parse_cidr

DEFAULT_INBOUND: Final = (
    "tcp:22",
    "udp:68",
    "udp:546",
    "tcp:179",
    "tcp:4222",
    "tcp:8080",
)
DEFAULT_OUTBOUND: Final = (
    "udp:53",
    "tcp:53",
    "udp:67",
    "udp:547",
    "tcp:179",
    "tcp:4222",
    "tcp:8080",
)
PROTOCOLS: Final = {"tcp": 6, "udp": 17}


class FailsafeError(ValueError):
    """An entry that cannot be read; the text is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Failsafe:
    """One port that stays open, to or from these addresses; `net` is canonical, "" for all of them."""

    protocol: int
    port: int
    net: str = ""

    def is_for(self, family: Family) -> bool:
        """Tell whether it concerns a family at all."""
        return not self.net or (":" in self.net) == (family is Family.V6)

    def holds(self, address: str) -> bool:
        """Tell whether a bare address is one of those it is for."""
        return not self.net or contains(Cidr(self.net), parse_cidr(address))


def parse_failsafe(text: str) -> Failsafe:
    """Read `protocol:port` or `protocol:port:net`; an IPv6 net stands in brackets.

    Errors: FailsafeError.
    """
    name, _, rest = text.partition(":")
    port, colon, net = rest.partition(":")
    if name not in PROTOCOLS:
        raise FailsafeError(f"{text!r}: the protocol must be tcp or udp, as in tcp:22.")
    if not (
        port.isascii() and port.isdigit() and 1 <= int(port) <= 65535 and port == str(int(port))
    ):
        raise FailsafeError(f"{text!r}: the port must be a number from 1 to 65535.")
    if not colon:
        return Failsafe(PROTOCOLS[name], int(port))
    bare = net[1:-1] if net.startswith("[") and net.endswith("]") else net
    try:
        parsed = parse_cidr(bare)
    except ValueError as error:
        raise FailsafeError(f"{text!r}: {bare!r} is not a network: {error}") from error
    if (bare != net) != (":" in parsed):
        raise FailsafeError(f"{text!r}: an IPv6 network stands in brackets, and no other does.")
    return Failsafe(PROTOCOLS[name], int(port), parsed)
