"""Route ops as rtnetlink bytes, rtnetlink bytes as routes, and errors as outcomes.

Pure. Interface names become indices in the driver; here they are numbers.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable

from hopwall_dataplane.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Failure,
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
#: nlmsghdr and rtmsg in one go: this is the hot path of a cold start.
_HEAD = struct.Struct("=IHHIIBBBBBBBBI")

_AF = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_ADDRESS_ATTRIBUTE = {
    Family.V4: (struct.Struct("=HH4s"), 8),
    Family.V6: (struct.Struct("=HH16s"), 20),
}
#: (table, type, scope) per kind; v6 has no scopes and ignores ours.
_PLACE = {
    "link": (TABLE_MAIN, _RTN_UNICAST, _SCOPE_LINK),
    "via": (TABLE_MAIN, _RTN_UNICAST, _SCOPE_UNIVERSE),
    "local": (TABLE_LOCAL, _RTN_LOCAL, _SCOPE_HOST),
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
    family = route.family
    table, kind, scope = _PLACE[route.kind]
    attributes_, length = _destination(route.cidr, family)
    if route.gateway:
        packer, size = _ADDRESS_ATTRIBUTE[family]
        gateway = socket.inet_pton(_AF[family], route.gateway)
        attributes_ += packer.pack(size, _RTA_GATEWAY, gateway)
    if index:
        attributes_ += _UINT_ATTRIBUTE.pack(8, _RTA_OIF, index)
    if route.priority:
        attributes_ += _UINT_ATTRIBUTE.pack(8, _RTA_PRIORITY, route.priority)
    flags = NLM_F_REQUEST | (NLM_F_REPLACE if op.old else NLM_F_CREATE | NLM_F_EXCL)
    return (
        _HEAD.pack(
            _HEAD.size + len(attributes_),
            RTM_NEWROUTE,
            flags,
            0,
            0,
            _AF[family],
            length,
            0,
            0,
            table,
            ROUTE_PROTOCOL,
            scope,
            kind,
            0,
        )
        + attributes_
    )


def delete_message(key: RouteKey) -> bytes:
    """Build the request that takes our route away; the protocol number keeps foreign ones safe.

    Source: fib_table_delete() in net/ipv4/fib_trie.c, ip6_route_del() in net/ipv6/route.c.
    """
    family = Family.V6 if ":" in key.cidr else Family.V4
    attributes_, length = _destination(key.cidr, family)
    priority = key.priority or (_V6_DEFAULT_PRIORITY if family is Family.V6 else 0)
    if priority and key.table == TABLE_MAIN:
        attributes_ += _UINT_ATTRIBUTE.pack(8, _RTA_PRIORITY, priority)
    body = _RTMSG.pack(_AF[family], length, 0, 0, key.table, ROUTE_PROTOCOL, _SCOPE_NOWHERE, 0, 0)
    return message(RTM_DELROUTE, 0, body + attributes_)


def _destination(cidr: str, family: Family) -> tuple[bytes, int]:
    """Return the destination's attribute and its prefix length."""
    address, _, length = cidr.partition("/")
    packer, size = _ADDRESS_ATTRIBUTE[family]
    return packer.pack(size, _RTA_DST, socket.inet_pton(_AF[family], address)), int(length)


def dump_message(family: Family) -> bytes:
    """Build the question for all our routes of a family, in every table; the kernel filters.

    Source: NETLINK_GET_STRICT_CHK, ip_valid_fib_dump_req() in net/ipv4/fib_frontend.c.
    """
    body = _RTMSG.pack(_AF[family], 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    return message(RTM_GETROUTE, NLM_F_DUMP, body)


def parse_route(body: bytes, name_of: Callable[[int], str]) -> tuple[RouteKey, Route] | None:
    """Read one route of a dump; None when it is not ours or not in our tables."""
    af, length, _, tos, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    family = Family.V6 if af == socket.AF_INET6 else Family.V4
    destination = bytes(16 if family is Family.V6 else 4)
    gateway = ""
    index = priority = 0
    plain = True
    for attribute, start, end in attributes(body, _RTMSG.size, len(body)):
        if attribute == _RTA_DST:
            destination = body[start:end]
        elif attribute == _RTA_OIF:
            (index,) = _UINT.unpack_from(body, start)
        elif attribute == _RTA_GATEWAY:
            gateway = socket.inet_ntop(af, body[start:end])
        elif attribute == _RTA_PRIORITY:
            (priority,) = _UINT.unpack_from(body, start)
        elif attribute not in _PLAIN_ATTRIBUTES:
            plain = False
    if protocol != ROUTE_PROTOCOL or table not in (TABLE_MAIN, TABLE_LOCAL) or tos:
        return None
    cidr = f"{socket.inet_ntop(af, destination)}/{length}"
    if family is Family.V6 and (priority == _V6_DEFAULT_PRIORITY or table == TABLE_LOCAL):
        priority = 0
    name = name_of(index) if index else ""
    shape = _shape(kind, table, gateway, name) if plain else "other"
    interface = name if shape == "link" else ""
    return RouteKey(table, cidr, priority), Route(cidr, shape, gateway, interface, priority)


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
        errno.ENETUNREACH,  # v4: no route to the gateway
        errno.EHOSTUNREACH,  # v6: no route to the gateway
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
    if code in _RETRIED:
        return Retry(f"route {op.route} cannot stand yet: {said}")
    return Refused(f"route {op.route} is refused by the kernel: {said}")
