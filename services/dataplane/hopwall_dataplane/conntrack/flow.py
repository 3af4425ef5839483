"""What a tracked flow is, and what can be done to one.

Pure.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple


class Flow(NamedTuple):
    """One entry of the connection tracking table, as its first packet met the filter table.

    Shape: addresses are packed. The destination (and its port) is after DNAT. Of an expected connection, what
           is told is its master's; `ends` are the addresses of its own entry, both ways.
    """

    version: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    icmp_type: int | None
    icmp_code: int | None
    #: The connection's mark, all bits.
    mark: int
    ends: tuple[bytes, ...]
    #: The entry's attributes as they came: what names it to the kernel is among them.
    entry: bytes
    #: The destination and its port before DNAT; None where they are the same.
    asked: tuple[bytes, int] | None = None


def is_plain(flow: Flow) -> bool:
    """Tell whether a flow is neither translated nor expected by another."""
    there, back = flow.source, flow.destination
    return flow.asked is None and flow.ends == (there, back, back, there)


class MarkFlow(NamedTuple):
    """Set, or clear, the bits that say that a flow is revoked; all others stay."""

    flow: Flow
    revoked: bool


class DeleteFlow(NamedTuple):
    """Forget a flow."""

    flow: Flow


FlowOp = MarkFlow | DeleteFlow


@dataclass(slots=True)
class HostAddresses:
    """The addresses that are this host's own.

    Shape: `single` are packed addresses, `nets` (bytes of an address, bits after the network, network as a number).
    """

    single: set[bytes] = field(default_factory=set)
    nets: list[tuple[int, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, networks: Iterable[tuple[bytes, int]]) -> "HostAddresses":
        """Make it of (packed address, prefix length)."""
        made = cls()
        for address, length in networks:
            shift = len(address) * 8 - length
            if shift:
                number = int.from_bytes(address) >> shift
                made.nets.append((len(address), shift, number))
            else:
                made.single.add(address)
        return made

    def __contains__(self, address: bytes) -> bool:
        """Tell whether a packet to this packed address is for the host."""
        if address in self.single:
            return True
        number = int.from_bytes(address)
        return any(
            size == len(address) and number >> shift == network
            for size, shift, network in self.nets
        )


@lru_cache(maxsize=4096)
def text_of(address: bytes) -> str:
    """Return a packed address as canonical text."""
    return str(ipaddress.ip_address(address))
