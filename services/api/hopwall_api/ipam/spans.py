"""Ranges of addresses as numbers, for arithmetic. Pure."""

import socket
from ipaddress import IPv6Address

from msgspec import Struct

from hopwall_model.cidr import Cidr, Family, address_of, family_of, length_of

BITS: dict[Family, int] = {4: 32, 6: 128}
_AF: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}


class Span(Struct, frozen=True, order=True, gc=False):
    """All addresses of a family from `first` to `last`."""

    family: Family
    first: int
    last: int

    @property
    def size(self) -> int:
        """How many addresses there are."""
        return self.last - self.first + 1

    def overlaps(self, other: "Span") -> bool:
        """Tell whether the two share an address."""
        return self.family == other.family and self.first <= other.last and other.first <= self.last

    def holds(self, other: "Span") -> bool:
        """Tell whether all of the other is in this one."""
        return self.family == other.family and self.first <= other.first and other.last <= self.last


def number_of(address: str) -> int:
    """Return the number of an address in canonical text."""
    return int.from_bytes(socket.inet_pton(_AF[family_of(Cidr(address))], address), "big")


def text_of(family: Family, number: int) -> str:
    """Return the address with this number in canonical text (RFC 5952)."""
    text = socket.inet_ntop(_AF[family], number.to_bytes(BITS[family] // 8, "big"))
    # The system writes what begins with 96 zeros as IPv4 within IPv6.
    return str(IPv6Address(number)) if family == 6 and "." in text else text


def span_of(cidr: str) -> Span:
    """Return the span of a network in canonical text; a bare address is a network of one."""
    family = family_of(Cidr(cidr))
    length = length_of(Cidr(cidr)) if "/" in cidr else BITS[family]
    first = number_of(address_of(Cidr(cidr)))
    return Span(family, first, first + (1 << BITS[family] - length) - 1)


def cidr_of(family: Family, first: int, length: int) -> Cidr:
    """Return the network that begins with this number, in canonical text."""
    return Cidr(f"{text_of(family, first)}/{length}")
