"""Route ops as rtnetlink bytes, rtnetlink bytes as routes, and errors as outcomes.

Pure. Interface names become indices in the driver; here they are numbers.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from functools import lru_cache
from socket import inet_ntop, inet_pton

from hopwall_dataplane.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Failure,
    attribute,
    attributes,
    message,
)
from hopwall_dataplane.outcome import Done, Family, Outcome, Refused, Retry
from hopwall_dataplane.routes.route import (
    ROUTE_PROTOCOL,
    TABLE_LOCAL,
    TABLE_MAIN,
    DeleteRoute,
    ReplaceRoute,
    Route,
    RouteKey,
    RouteKind,
    RouteOp,
)

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

_RTN_UNICAST = 1
_RTN_LOCAL = 2
_SCOPE_UNIVERSE = 0
_SCOPE_LINK = 253
_SCOPE_HOST = 254
_SCOPE_NOWHERE = 255

_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_TABLE = 15

#: What a route of ours may carry when it is read back: the attributes above, and what the kernel adds
#: by itself (RTA_CACHEINFO, RTA_PREF). Anything else was put there by somebody else.
_PLAIN_ATTRIBUTES = frozenset({_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE, 12, 20})

#: The metric the kernel gives a v6 route that names none (IP6_RT_PRIO_USER, net/ip6_route.h).
_V6_DEFAULT_PRIORITY = 1024

_RTMSG = struct.Struct("=BBBBBBBBI")
_UINT_ATTRIBUTE = struct.Struct("=HHI")
_UINT = struct.Struct("=I")
#: nlmsghdr, rtmsg and the head of RTA_DST, which the address follows.
_HEAD = struct.Struct("=IHHIIBBBBBBBBIHH")

_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_ADDRESS_BYTES = {_AF_INET: 4, _AF_INET6: 16}
_TAKE_EMPTY = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
_REPLACE_OURS = NLM_F_REQUEST | NLM_F_REPLACE

#: (request, table, type, scope) per kind; v6 has no scopes and ignores ours. A deletion matches any type
#: and scope.
_PLACE = {
    "link": (RTM_NEWROUTE, TABLE_MAIN, _RTN_UNICAST, _SCOPE_LINK),
    "via": (RTM_NEWROUTE, TABLE_MAIN, _RTN_UNICAST, _SCOPE_UNIVERSE),
    "local": (RTM_NEWROUTE, TABLE_LOCAL, _RTN_LOCAL, _SCOPE_HOST),
    "absent": (RTM_DELROUTE, TABLE_MAIN, 0, _SCOPE_NOWHERE),
    "absent local": (RTM_DELROUTE, TABLE_LOCAL, 0, _SCOPE_NOWHERE),
}


def replace_message(op: ReplaceRoute, index: int) -> bytes:
    """Build the request that makes a route stand; `index` is its interface's, 0 for none.

    Without a route of ours in the place, the place must be empty (EXCL). With one, it is replaced and
    never created anew, so a place that is not as we believed is an error and not an accident.
    NLM_F_REPLACE alone would not do: the kernel replaces whatever stands there, foreign or not.

    Errors: `ValueError` or `OSError` when an address is not one.
    Source: fib_table_insert() in net/ipv4/fib_trie.c, fib6_add_rt2node() in net/ipv6/ip6_fib.c.
    """
    route = op.route
    cidr = route.cidr
    af = _AF_INET6 if ":" in cidr else _AF_INET
    address, _, length = cidr.partition("/")
    tail = _next_hop(af, route.gateway, index, route.priority)
    flags = _REPLACE_OURS if op.old is not None else _TAKE_EMPTY
    return _head(af, length, flags, route.kind, len(tail)) + inet_pton(af, address) + tail


def delete_message(key: RouteKey) -> bytes:
    """Build the request that takes our route away; the protocol number keeps foreign ones safe.

    Errors: `ValueError` or `OSError` when the address is not one.
    Source: fib_table_delete() in net/ipv4/fib_trie.c, ip6_route_del() in net/ipv6/route.c.
    """
    cidr, table, priority = key
    af = _AF_INET6 if ":" in cidr else _AF_INET
    address, _, length = cidr.partition("/")
    if table == TABLE_LOCAL:
        priority = 0
    elif af == _AF_INET6 and not priority:
        priority = _V6_DEFAULT_PRIORITY
    tail = _next_hop(af, "", 0, priority)
    what = "absent local" if table == TABLE_LOCAL else "absent"
    return _head(af, length, NLM_F_REQUEST, what, len(tail)) + inet_pton(af, address) + tail


# The routes of a host differ in little but their address: what repeats is built once.


@lru_cache(maxsize=1024)
def _head(af: int, length: str, flags: int, what: str, tail: int) -> bytes:
    """Build a request up to the destination's address, given the size of what follows that."""
    request, table, kind, scope = _PLACE[what]
    size = _ADDRESS_BYTES[af]
    total = _HEAD.size + size + tail
    header = (total, request, flags, 0, 0)
    rtmsg = (af, int(length), 0, 0, table, ROUTE_PROTOCOL, scope, kind, 0)
    return _HEAD.pack(*header, *rtmsg, 4 + size, _RTA_DST)


@lru_cache(maxsize=4096)
def _next_hop(af: int, gateway: str, index: int, priority: int) -> bytes:
    """Build the attributes after the destination."""
    packed = attribute(_RTA_GATEWAY, inet_pton(af, gateway)) if gateway else b""
    if index:
        packed += _UINT_ATTRIBUTE.pack(8, _RTA_OIF, index)
    if priority:
        packed += _UINT_ATTRIBUTE.pack(8, _RTA_PRIORITY, priority)
    return packed


def dump_message(family: Family) -> bytes:
    """Build the question for all our routes of a family, in every table; the kernel filters.

    Source: NETLINK_GET_STRICT_CHK, ip_valid_fib_dump_req() in net/ipv4/fib_frontend.c.
    """
    body = _RTMSG.pack(
        _AF_INET6 if family is Family.V6 else _AF_INET, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0
    )
    return message(RTM_GETROUTE, NLM_F_DUMP, body)


def parse_route(body: bytes, name_of: Callable[[int], str]) -> tuple[RouteKey, Route] | None:
    """Read one route of a dump; None when it is not ours or not in our tables."""
    af, length, _, tos, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    family = Family.V6 if af == socket.AF_INET6 else Family.V4
    destination = bytes(16 if family is Family.V6 else 4)
    gateway = ""
    index = priority = 0
    plain = True
    for attr, start, end in attributes(body, _RTMSG.size, len(body)):
        if attr == _RTA_DST:
            destination = body[start:end]
        elif attr == _RTA_OIF:
            (index,) = _UINT.unpack_from(body, start)
        elif attr == _RTA_GATEWAY:
            gateway = inet_ntop(af, body[start:end])
        elif attr == _RTA_PRIORITY:
            (priority,) = _UINT.unpack_from(body, start)
        elif attr not in _PLAIN_ATTRIBUTES:
            plain = False
    if protocol != ROUTE_PROTOCOL or table not in (TABLE_MAIN, TABLE_LOCAL) or tos:
        return None
    cidr = f"{inet_ntop(af, destination)}/{length}"
    if family is Family.V6 and (priority == _V6_DEFAULT_PRIORITY or table == TABLE_LOCAL):
        priority = 0
    device = name_of(index) if index else ""
    shape = _shape(kind, table, gateway, device) if plain else "other"
    interface = device if shape == "link" else ""
    return RouteKey(cidr, table, priority), Route(cidr, shape, gateway, interface, priority)


def _shape(kind: int, table: int, gateway: str, interface: str) -> RouteKind:
    """Say which of our kinds a route is, or that somebody changed it into another."""
    if kind == _RTN_LOCAL and table == TABLE_LOCAL and interface == "lo" and not gateway:
        return "local"
    if kind == _RTN_UNICAST and table == TABLE_MAIN and interface:
        return "via" if gateway else "link"
    return "other"


#: errno → what it means for the op. Each row was seen on a real kernel (tests/dataplane/routes).
_RETRIED = frozenset(
    {
        errno.ENODEV,  # the interface went away
        errno.ENETDOWN,  # the interface is down
        errno.ENOENT,  # the route to be replaced is not there any more
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ETIMEDOUT,
        errno.EPERM,
    }
)
#: No route to the gateway (v4, v6): one destination's trouble, which must not hold up the others. The agent
#: tries it again whenever a link changes, and at each heartbeat.
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})


def outcome_of(op: RouteOp, failure: Failure) -> Outcome:
    """Say what the kernel's error means for an op.

    Errors: an errno not in the table is refused: an op that can never work must not be tried for ever.
    """
    code = failure.errno
    said = failure.text or os.strerror(code)
    if isinstance(op, DeleteRoute):
        if code == errno.ESRCH:
            return Done()
        kind = Retry if code in _RETRIED else Refused
        return kind(f"route {op.key.cidr} could not be removed: {said}")
    if code == errno.EEXIST:
        return Refused(
            f"route {op.route}: a foreign route to the same destination with the same priority is in "
            f"place; remove it or give it another metric"
        )
    if code in _UNREACHABLE:
        return Refused(
            f"route {op.route}: this host has no way to the gateway now; check its uplink's address and "
            "the other host's Node"
        )
    if code in _RETRIED:
        return Retry(f"route {op.route} cannot stand yet: {said}")
    return Refused(f"route {op.route} is refused by the kernel: {said}")
