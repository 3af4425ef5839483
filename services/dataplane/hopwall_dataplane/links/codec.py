"""What a link is here, and rtnetlink bytes → links.

Pure. It refuses everything about a link but its name, index, address and whether it can carry packets.

Source: rtnetlink(7), netdevice(7), linux/if_link.h.
"""

import struct
from collections.abc import Iterable

from msgspec import Struct

from hopwall_dataplane.netlink.codec import (
    NLM_F_DUMP,
    attribute,
    attributes,
    message,
    text_of,
)

#: The multicast group of link events, as a bit mask (RTMGRP_LINK).
LINK_GROUP = 1

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_EXT_MASK = 1, 3, 29
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_AF_UNSPEC = 0
_IFINFOMSG = struct.Struct("=BBHiII")


class Link(Struct, frozen=True):
    """One network interface of this host.

    `up` is what the administrator wants, `carrier` whether it is up and the other end is there.
    """

    name: str
    index: int
    mac: str
    up: bool
    carrier: bool


def dump_message() -> bytes:
    """Build the question for all links, without their statistics."""
    mask = attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    return message(_RTM_GETLINK, NLM_F_DUMP, _IFINFOMSG.pack(_AF_UNSPEC, 0, 0, 0, 0, 0) + mask)


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
    """All links, folded from events; the index is the identity, a name is only what it is called now."""

    def __init__(self) -> None:
        """Begin with no links."""
        self._links: dict[int, Link] = {}

    def replace(self, rows: Iterable[tuple[int, bytes]]) -> bool:
        """Take a dump for the whole truth; say whether anything is different now."""
        before = self._links
        self._links = {}
        for kind, body in rows:
            self.fold(kind, body)
        return self._links != before

    def fold(self, kind: int, body: bytes) -> bool:
        """Take one event; say whether anything is different now.

        Events of other families are about bridge ports and their like: a bridge announces with DELLINK that
        a link left it, and the link is still there.

        Source: br_ifinfo_notify() in net/bridge/br_netlink.c.
        """
        if kind not in (_RTM_NEWLINK, _RTM_DELLINK) or body[0] != _AF_UNSPEC:
            return False
        link = parse_link(body)
        if kind == _RTM_DELLINK:
            return self._links.pop(link.index, None) is not None
        if self._links.get(link.index) == link:
            return False
        self._links[link.index] = link
        return True

    def by_name(self) -> dict[str, Link]:
        """Return the links by their current names."""
        return {link.name: link for link in self._links.values()}
