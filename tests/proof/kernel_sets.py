"""The sets of the kernel, read from what `ipset save` prints, and looked into as the kernel does.

Source: ipset(8); the most specific element answers, as the kernel tries prefix lengths from the longest.
"""

import ipaddress
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from tests.proof.packets import NotUnderstood, Packet

WITH_PORTS = frozenset({6, 17, 33, 132, 136})
PROTOCOLS = {"all": 0, "icmpv6": 58, "ipv6-icmp": 58, "icmp": 1, "tcp": 6, "udp": 17, "sctp": 132}
#: Type → how many sides a match names.
DIMENSIONS = {"hash:net": 1, "hash:ip": 1, "hash:net,iface": 2, "hash:ip,port": 2}


@cache
def protocol_number(text: str) -> int:
    """Read a protocol as the tools do: a number, or a name they or /etc/protocols know."""
    if text.isdigit():
        return int(text)
    return PROTOCOLS[text] if text in PROTOCOLS else socket.getprotobyname(text)


def value_and_mask(text: str) -> tuple[int, int]:
    """Read a mark: a value, and a mask that is all bits where none is given."""
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else 0xFFFFFFFF


class Mark(NamedTuple):
    """What an element says of the packet's mark."""

    value: int
    mask: int


@dataclass(slots=True)
class HeldSet:
    """One set: elements by prefix length, the longest first, as the kernel looks them up."""

    type: str
    version: int
    with_marks: bool
    by_length: dict[int, dict[tuple[int, object], Mark | None]] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()

    def add(self, text: str, mark: Mark | None) -> None:
        """Take in an element as `ipset save` prints it."""
        parts = text.split(",")
        net = ipaddress.ip_network(parts[0])
        if net.version != self.version or (net.prefixlen == 0 and self.type != "hash:net,iface"):
            raise NotUnderstood(f"{text} cannot be in a set of {self.type}, IPv{self.version}")
        bits = net.max_prefixlen
        if self.type in ("hash:ip", "hash:ip,port") and net.prefixlen != bits:
            raise NotUnderstood(f"{text} is no single address")
        elements = self.by_length.setdefault(net.prefixlen, {})
        elements[int(net.network_address) >> (bits - net.prefixlen), self._rest(parts[1:])] = mark
        self.lengths = tuple(sorted(self.by_length, reverse=True))

    def _rest(self, parts: list[str]) -> object:
        if self.type in ("hash:net", "hash:ip") and not parts:
            return None
        if self.type == "hash:net,iface" and len(parts) == 1:
            return parts[0]
        if self.type == "hash:ip,port" and len(parts) == 1:
            protocol, _, port = parts[0].rpartition(":")
            return protocol_number(protocol or "tcp"), int(port)
        raise NotUnderstood(f"element with {parts} in a set of type {self.type}")

    def find(self, packet: Packet, sides: tuple[str, ...]) -> tuple[bool, Mark | None]:
        """Tell whether the packet's element is in, and its mark."""
        bits = 32 if self.version == 4 else 128
        given = packet.source if sides[0] == "src" else packet.destination
        rest: object = None
        if self.type == "hash:net,iface":
            rest = packet.came_in if sides[1] == "src" else packet.goes_out
        elif self.type == "hash:ip,port":
            if packet.protocol not in WITH_PORTS:
                return False, None
            port = packet.source_port if sides[1] == "src" else packet.destination_port
            rest = packet.protocol, port
        for length in self.lengths:
            elements = self.by_length[length]
            key = given >> (bits - length), rest
            if key in elements:
                return True, elements[key]
        return False, None


def read_sets(text: str) -> dict[str, HeldSet]:
    """Read what `ipset save` prints."""
    sets: dict[str, HeldSet] = {}
    for line in text.splitlines():
        words = shlex.split(line)
        match words:
            case ["create", name, type_, *options] if type_ in DIMENSIONS:
                version = 6 if "inet6" in options else 4
                sets[name] = HeldSet(type_, version, "skbinfo" in options)
            case ["add", name, element, "skbmark", mark] if sets[name].with_marks:
                sets[name].add(element, Mark(*value_and_mask(mark)))
            case ["add", name, element]:
                sets[name].add(element, None)
            case []:
                pass
            case _:
                raise NotUnderstood(line)
    return sets


Sets = Mapping[str, HeldSet]
