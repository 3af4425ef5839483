"""Lets the kernel forget the link addresses of who has just arrived: the only code that touches neighbours.

A workload that comes back soon finds the host still asking in vain for it, once a second; a packet to it would
wait for the next question. Forgotten, it is asked for with the next packet.

Source: rtnetlink(7), neigh_add() and neigh_delete() in net/core/neighbour.c.
"""

import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Iterable

from hopwall_dataplane.netlink.codec import attribute, message
from hopwall_dataplane.netlink.socket import NETLINK_ROUTE, NetlinkSocket

log = logging.getLogger(__name__)

_RTM_DELNEIGH = 29
_NDA_DST = 1
_NDMSG = struct.Struct("=BBHiHBB")
_ENOENT = 2


def forget(interface: str, cidrs: Iterable[str]) -> int:
    """Forget the addresses on an interface; return how many were known. What is not known is no fault."""
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        return 0
    messages = [_deletion(index, cidr) for cidr in cidrs]
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        failures = kernel.send(messages)
    for failure in failures.values():
        if failure.errno != _ENOENT:
            said = failure.text or os.strerror(failure.errno)
            log.info("a neighbour on %s could not be forgotten: %s", interface, said)
    return len(messages) - len(failures)


def _deletion(index: int, cidr: str) -> bytes:
    address = ipaddress.ip_address(cidr.partition("/")[0])
    af = socket.AF_INET if address.version == 4 else socket.AF_INET6
    head = _NDMSG.pack(af, 0, 0, index, 0, 0, 0)
    return message(_RTM_DELNEIGH, 0, head + attribute(_NDA_DST, address.packed))
