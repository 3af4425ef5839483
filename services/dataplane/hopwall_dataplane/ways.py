"""By which interface, and with which of its own addresses, this host reaches NATS: asked of the kernel.

Source: rtnetlink(7), RTM_GETROUTE.
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Mapping

from hopwall_dataplane.host_endpoints import Way
from hopwall_dataplane.netlink.codec import Failure, attribute, attribute_table, message
from hopwall_dataplane.netlink.socket import NETLINK_ROUTE, NetlinkSocket

_RTM_GETROUTE = 26
_RTA_DST, _RTA_OIF, _RTA_PREFSRC = 1, 4, 7
_RTN_LOCAL = 2
_RTMSG = struct.Struct("=BBBBBBBBI")
_TYPE = 7


def ways_to(servers: Iterable[tuple[str, int]], interfaces: Mapping[int, str]) -> tuple[Way, ...]:
    """Return how each server is reached now; one without a route is left out.

    Shape:  `interfaces` is index → name.
    Errors: OSError when the kernel cannot be asked at all.
    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        found = (_way(kernel, address, port, interfaces) for address, port in servers)
        return tuple(way for way in found if way is not None)


def _way(
    kernel: NetlinkSocket, address: str, port: int, interfaces: Mapping[int, str]
) -> Way | None:
    raw = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    head = _RTMSG.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0)
    answer = kernel.ask(message(_RTM_GETROUTE, 0, head + attribute(_RTA_DST, raw)))
    if isinstance(answer, Failure):
        return None
    if answer[_TYPE] == _RTN_LOCAL:
        return Way(address, port, address, "")
    route = attribute_table(answer, _RTMSG.size, len(answer))
    source = route.get(_RTA_PREFSRC)
    name = interfaces.get(int.from_bytes(route.get(_RTA_OIF, b""), sys.byteorder))
    if source is None or name is None:
        return None
    return Way(address, port, str(ipaddress.ip_address(source)), name)
