"""What a link is here, and rtnetlink bytes → links.

Pure. It refuses everything about a link but its name, index, addresses and whether it can carry packets.

Source: rtnetlink(7), netdevice(7), linux/if_link.h.
"""

import ipaddress
import struct
from collections.abc import Iterable

from msgspec import Struct, structs

from hopwall_dataplane.netlink.codec import (
    NLM_F_DUMP,
    attribute,
    attribute_table,
    attributes,
    message,
    text_of,
)

#: The multicast groups of link and address events, as a bit mask (RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR).
GROUPS = 0x1 | 0x10 | 0x100

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_EXT_MASK = 1, 3, 29
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_AF_UNSPEC = 0
_IFINFOMSG = struct.Struct("=BBHiII")
_IFADDRMSG = struct.Struct("=BBBBI")


class Link(Struct, frozen=True):
    """One network interface of this host.

    `up` is what the administrator wants, `carrier` whether it is up and the other end is there.
    """

    name: str
    index: int
    mac: str
    up: bool
    carrier: bool
    #: Its own addresses, bare and canonical.
    addresses: frozenset[str] = frozenset()


def dump_message() -> bytes:
    """Build the question for all links, without their statistics."""
    mask = attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    return message(_RTM_GETLINK, NLM_F_DUMP, _IFINFOMSG.pack(_AF_UNSPEC, 0, 0, 0, 0, 0) + mask)


def dump_addresses_message() -> bytes:
    """Build the question for all addresses of all links, of both families."""
    return message(_RTM_GETADDR, NLM_F_DUMP, _IFADDRMSG.pack(_AF_UNSPEC, 0, 0, 0, 0))


def parse_address(body: bytes) -> tuple[int, str]:
    """Read one address: the index of its link, and the address itself.

    Source: rtnetlink(7): on a point-to-point link IFA_ADDRESS is the other end, IFA_LOCAL our own.
    """
    *_, index = _IFADDRMSG.unpack_from(body)
    found = attribute_table(body, _IFADDRMSG.size, len(body))
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    return index, str(ipaddress.ip_address(raw)) if len(raw) in (4, 16) else ""


def parse_link(body: bytes) -> Link:
    """Read one link."""
    _, _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    name = mac = ""
    for kind, start, end in attributes(body, _IFINFOMSG.size, len(body)):
        if kind == _IFLA_IFNAME:
            name = text_of(body[start:end])
        elif kind == _IFLA_ADDRESS:
            mac = body[start:end].hex(":")
            break  # the kernel writes the address after the name, and much that we skip after both
    return Link(name, index, mac, bool(flags & _IFF_UP), bool(flags & _IFF_LOWER_UP))


class LinkTable:
    """All links, folded from events; the index is the identity, a name is only what it is called now.

    Addresses are kept apart: the events of a link say nothing of them, and come in any order.
    """

    def __init__(self) -> None:
        """Begin with no links."""
        self._links: dict[int, Link] = {}
        self._addresses: dict[int, frozenset[str]] = {}

    def replace(self, rows: Iterable[tuple[int, bytes]]) -> bool:
        """Take a dump for the whole truth; say whether anything is different now."""
        before = self._links, self._addresses
        self._links, self._addresses = {}, {}
        for kind, body in rows:
            self.fold(kind, body)
        return (self._links, self._addresses) != before

    def fold(self, kind: int, body: bytes) -> bool:
        """Take one event; say whether anything is different now.

        Events of other families are about bridge ports and their like: a bridge announces with DELLINK that
        a link left it, and the link is still there.

        Source: br_ifinfo_notify() in net/bridge/br_netlink.c.
        """
        if kind in (_RTM_NEWADDR, _RTM_DELADDR):
            return self._fold_address(kind, body)
        if kind not in (_RTM_NEWLINK, _RTM_DELLINK) or body[0] != _AF_UNSPEC:
            return False
        link = parse_link(body)
        if kind == _RTM_DELLINK:
            self._addresses.pop(link.index, None)
            return self._links.pop(link.index, None) is not None
        if self._links.get(link.index) == link:
            return False
        self._links[link.index] = link
        return True

    def by_name(self) -> dict[str, Link]:
        """Return the links by their current names."""
        addresses = self._addresses
        return {
            link.name: structs.replace(link, addresses=addresses[i]) if i in addresses else link
            for i, link in self._links.items()
        }

    def _fold_address(self, kind: int, body: bytes) -> bool:
        index, address = parse_address(body)
        if not address:
            return False
        before = self._addresses.get(index, frozenset())
        now = before | {address} if kind == _RTM_NEWADDR else before - {address}
        if now:
            self._addresses[index] = now
        else:
            self._addresses.pop(index, None)
        return now != before
