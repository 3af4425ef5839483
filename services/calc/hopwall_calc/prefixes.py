"""Ranges of networks as values: what lies in them, what is left when others are taken out.

A `PrefixRange` is a set of networks (those inside a CIDR, of some lengths), not of addresses: to take a
pool out of 0.0.0.0/0 leaves 10.0.0.0/8, which covers it, and takes what lies inside.

Cost: `without` gives at most 33 (IPv4) or 129 (IPv6) ranges for each network taken out of each range.
"""

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Generic, TypeVar

from hopwall_model.bgp import FilterRule, PrefixRange

T = TypeVar("T")

Network = IPv4Network | IPv6Network

#: IP family → the longest prefix.
LONGEST = {4: 32, 6: 128}


def family_of(text: str) -> int:
    """Return the IP family of an address or network."""
    return 6 if ":" in text else 4


def of_family(texts: Iterable[str], family: int) -> tuple[str, ...]:
    """Return the networks of one family."""
    return tuple(text for text in texts if family_of(text) == family)


def collapsed(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the fewest networks that cover the same addresses, sorted, IPv4 first."""
    given = list(texts)
    v4 = (IPv4Network(text) for text in given if family_of(text) == 4)
    v6 = (IPv6Network(text) for text in given if family_of(text) == 6)
    return (*map(str, collapse_addresses(v4)), *map(str, collapse_addresses(v6)))


def gaps(outer: str, inner: Iterable[str]) -> Iterator[str]:
    """Yield the networks that make up what is left of `outer` without the `inner` ones.

    `inner` are disjoint, sorted and of the same family.
    """
    whole = ip_network(outer)
    type_ = IPv6Address if whole.version == 6 else IPv4Address
    at, end = int(whole[0]), int(whole[-1])
    for text in inner:
        taken = ip_network(text)
        first, last = int(taken[0]), int(taken[-1])
        if last < at or first > end:
            continue
        if first > at:
            yield from map(str, summarize_address_range(type_(at), type_(first - 1)))
        at = max(at, last + 1)
    if at <= end:
        yield from map(str, summarize_address_range(type_(at), type_(end)))


def without(range_: PrefixRange, taken: str) -> Iterator[PrefixRange]:
    """Yield the ranges that hold the networks of `range_` that are not inside `taken`."""
    whole, pool = ip_network(range_.cidr), ip_network(taken)
    if not whole.overlaps(pool):
        yield range_
        return
    if whole.prefixlen >= pool.prefixlen:
        return  # all of it is inside
    if range_.shortest < pool.prefixlen:
        yield PrefixRange(range_.cidr, range_.shortest, min(range_.longest, pool.prefixlen - 1))
    shortest = max(range_.shortest, pool.prefixlen)
    if shortest <= range_.longest:
        for piece in gaps(range_.cidr, (taken,)):
            yield PrefixRange(piece, shortest, range_.longest)


def accepted(rules: Iterable[FilterRule], family: int) -> tuple[PrefixRange, ...]:
    """Return ranges that hold all that the rules accept, and perhaps more: the rules still decide.

    The default route is in them only where a rule names it.
    """
    everything = "0.0.0.0/0" if family == 4 else "::/0"
    found: dict[PrefixRange, None] = {}
    for rule in rules:
        if rule.action != "accept":
            continue
        longest = min(rule.longest, LONGEST[family])
        if rule.operator == "equal":
            length = ip_network(rule.cidr).prefixlen
            if rule.shortest <= length <= longest:
                found[PrefixRange(rule.cidr, length, length)] = None
            continue
        inside = rule.operator == "in"
        cidr = rule.cidr if inside else everything
        shortest = max(rule.shortest, ip_network(cidr).prefixlen if inside else 1)
        if shortest <= longest:
            found[PrefixRange(cidr, shortest, longest)] = None
    return tuple(found)


class PrefixIndex(Generic[T]):
    """Values by network, several for one, to be found by an address inside.

    Cost: a question is one look-up for each prefix length there is.
    """

    def __init__(self) -> None:
        #: (family, length) → leading bits → the values.
        self._by_length: dict[tuple[int, int], dict[int, list[T]]] = {}

    def add(self, text: str, value: T) -> None:
        """Put a value at a network."""
        place, bits = _place(text)
        self._by_length.setdefault(place, {}).setdefault(bits, []).append(value)

    def remove(self, text: str, value: T) -> None:
        """Take a value away that was put there.

        Errors: KeyError or ValueError when it was not: a broken invariant.
        """
        place, bits = _place(text)
        values = self._by_length[place][bits]
        values.remove(value)
        if not values:
            del self._by_length[place][bits]
            if not self._by_length[place]:
                del self._by_length[place]

    def covering(self, text: str) -> Iterator[T]:
        """Yield the values of all networks that hold this one."""
        family, length = family_of(text), int(text.partition("/")[2])
        number = int(ip_address(text.partition("/")[0]))
        for (other, shorter), values in self._by_length.items():
            if other == family and shorter <= length:
                yield from values.get(number >> (LONGEST[family] - shorter), ())


def _place(text: str) -> tuple[tuple[int, int], int]:
    address, _, length = text.partition("/")
    family = family_of(text)
    shift = LONGEST[family] - int(length)
    return (family, int(length)), int(ip_address(address)) >> shift
