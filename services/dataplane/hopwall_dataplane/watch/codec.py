"""What the kernel's events tell of tables, routes, rules of routing and sysctls: bytes → values.

Pure. It refuses to say whether anything of ours is different now; only which reading would tell.

Source: linux/netfilter/nf_tables.h, linux/rtnetlink.h, linux/netconf.h, linux/fib_rules.h; fib_table_insert() in
net/ipv4/fib_trie.c (what the flags of a new route's event say).
"""

import socket
import struct
from collections.abc import Collection
from socket import inet_ntop
from typing import NamedTuple

from hopwall_dataplane.iptables.table import TableKey, is_ours
from hopwall_dataplane.netlink.codec import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    attribute_table,
    attributes,
    message,
    text_of,
)
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.routes.route import ROUTE_PROTOCOL, TABLE_LOCAL, TABLE_MAIN, RouteKey

#: Number of the group of nf_tables events, to join and to leave.
NFT_GROUP = 7
#: Routes and rules of routing of both families, and settings of interfaces; a mask of groups.
ROUTE_GROUPS = 1 << 6 | 1 << 10 | 1 << 7 | 1 << 18 | 1 << 23 | 1 << 24

_NFT = 10 << 8
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE = 0, 2, 3, 5, 6, 8
_NEWGEN, _GETGEN = 15, 16
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _RULE_TABLE, _RULE_CHAIN = 1, 1, 3, 1, 2
_NFGENMSG = struct.Struct("=BBH")
_BE32 = struct.Struct(">I")

_AF = {int(socket.AF_INET): Family.V4, int(socket.AF_INET6): Family.V6}
_TABLES = frozenset({"raw", "mangle", "filter", "nat"})
_BUILTINS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWRULE, _RTM_DELRULE, _RTM_NEWNETCONF = 24, 25, 32, 33, 80
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_PRIORITY = 1, 6
_RULE_HEAD = struct.Struct("=BBBBBBBBI")
_FRA_PRIORITY = 6
_UINT, _INT = struct.Struct("=I"), struct.Struct("=i")
_NETCONF_INDEX, _NETCONF_FORWARDING, _NETCONF_PROXY = 1, 2, 5
_NETCONF_HEAD = 4
_ALL = -1
_RTM_GETLINK, _RTM_GETNEIGHTBL = 18, 66
_IFINFOMSG = struct.Struct("=BBHiII")
_IFLA_AF_SPEC, _IFLA_EXT_MASK, _SKIP_STATS = 26, 29, 1 << 3
#: Family → the attribute of its settings: IFLA_INET_CONF, IFLA_INET6_CONF.
_CONF_OF = {int(socket.AF_INET): 1, int(socket.AF_INET6): 2}
_NDTA_PARMS, _NDTPA_IFINDEX, _NDTPA_PROXY_DELAY = 6, 1, 13
#: The metric of an IPv6 route that names none.
_V6_DEFAULT_PRIORITY = 1024


class Writer(NamedTuple):
    """Who made a transaction of nf_tables, as the kernel tells."""

    pid: int
    name: str


class RouteNews(NamedTuple):
    """A route that somebody made or removed.

    Shape: `beside`: one of the same key stood already, and is met after it, or bears our protocol number too.
    """

    key: RouteKey
    ours: bool
    made: bool
    beside: bool = False
    #: For packets of one type of service alone.
    tos: int = 0


class RuleNews(NamedTuple):
    """A rule of routing that somebody made or removed."""

    family: Family
    priority: int
    made: bool


def nft_table(data: bytes, found: Message) -> TableKey | None:
    """Return the table that must be read again after an event of nf_tables, None for none.

    Only what concerns us counts: whole tables, kernel chains, and chains of ours. Others' chains may change
    as often as they like.

    Cost: 1 to 2 µs.
    """
    kind = found.kind - _NFT
    if kind not in (_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE):
        return None
    family = _AF.get(data[found.start])
    if family is None:
        return None
    table = attribute_table(data, found.start + _NFGENMSG.size, found.end)
    name = text_of(table.get(_TABLE_NAME, b""))
    if name not in _TABLES:
        return None
    # What was there and is changed may be a chain of ours that was given another name.
    is_changed = kind == _NEWCHAIN and not found.flags & (NLM_F_CREATE | NLM_F_EXCL)
    if kind not in (_NEWTABLE, _DELTABLE) and not is_changed:
        chain = text_of(
            table.get(_CHAIN_NAME if kind in (_NEWCHAIN, _DELCHAIN) else _RULE_CHAIN, b"")
        )
        if chain not in _BUILTINS and not is_ours(chain):
            return None
    return family, name  # type: ignore[return-value]


def nft_writer(data: bytes, found: Message) -> Writer | None:
    """Return who made a transaction, from the event that ends it; None for another event."""
    if found.kind != _NFT | _NEWGEN:
        return None
    table = attribute_table(data, found.start + _NFGENMSG.size, found.end)
    if _GEN_PID not in table:
        return None
    return Writer(_BE32.unpack(table[_GEN_PID])[0], text_of(table.get(_GEN_NAME, b"")))


def generation_message() -> bytes:
    """Build the question for the number of the last transaction of nf_tables."""
    return message(_NFT | _GETGEN, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))


def parse_generation(body: bytes) -> int:
    """Return the number from the answer to `generation_message`."""
    generation: int = _BE32.unpack(attribute_table(body, _NFGENMSG.size, len(body))[_GEN_ID])[0]
    return generation


def route_news(data: bytes, found: Message) -> RouteNews | None:
    """Read an event about a route of the tables we write to; None for others.

    Cost: 2 to 3 µs.
    """
    if found.kind not in (_RTM_NEWROUTE, _RTM_DELROUTE):
        return None
    af, length, _, tos, table, protocol, _, _, _ = _RTMSG.unpack_from(data, found.start)
    if table not in (TABLE_MAIN, TABLE_LOCAL) or af not in _AF:
        return None
    rest = attribute_table(data, found.start + _RTMSG.size, found.end)
    destination = rest.get(_RTA_DST, bytes(16 if af == socket.AF_INET6 else 4))
    priority = _UINT.unpack(rest[_RTA_PRIORITY])[0] if _RTA_PRIORITY in rest else 0
    if af == socket.AF_INET6 and (priority == _V6_DEFAULT_PRIORITY or table == TABLE_LOCAL):
        priority = 0
    key = RouteKey(f"{inet_ntop(af, destination)}/{length}", table, priority)
    made, ours = found.kind == _RTM_NEWROUTE, protocol == ROUTE_PROTOCOL
    second = (
        af == socket.AF_INET and made and not tos and not found.flags & (NLM_F_EXCL | NLM_F_REPLACE)
    )
    return RouteNews(key, ours, made, second and (ours or not found.flags & NLM_F_APPEND), tos)


def goes_before(news: RouteNews) -> bool:
    """Tell whether a route would be taken before one of ours to a workload, which has the default metric."""
    is_better = ":" in news.key.cidr and 0 < news.key.priority < _V6_DEFAULT_PRIORITY
    is_better = is_better or news.tos > 0 or news.key.table == TABLE_LOCAL
    return not news.ours and news.made and is_better


def rule_news(data: bytes, found: Message) -> RuleNews | None:
    """Read an event about a rule of routing; None for others."""
    if found.kind not in (_RTM_NEWRULE, _RTM_DELRULE):
        return None
    family = _AF.get(data[found.start])
    if family is None:
        return None
    rest = attribute_table(data, found.start + _RULE_HEAD.size, found.end)
    priority = _UINT.unpack(rest[_FRA_PRIORITY])[0] if _FRA_PRIORITY in rest else 0
    return RuleNews(family, priority, found.kind == _RTM_NEWRULE)


def wrong_setting(data: bytes, found: Message, workloads: Collection[int]) -> int | None:
    """Return the interface whose forwarding or proxy ARP an event says was turned off, -1 for the host's.

    None for what is right, and for interfaces that are not workloads'.
    """
    if found.kind != _RTM_NEWNETCONF:
        return None
    rest = attribute_table(data, found.start + _NETCONF_HEAD, found.end)
    values = {
        kind: _INT.unpack(value)[0] for kind, value in rest.items() if len(value) == _INT.size
    }
    index = values.get(_NETCONF_INDEX, 0)
    proxies = data[found.start] == socket.AF_INET and index != _ALL
    wrong = values.get(_NETCONF_FORWARDING) == 0 or (proxies and values.get(_NETCONF_PROXY) == 0)
    return index if wrong and (index == _ALL or index in workloads) else None


def settings_message() -> bytes:
    """Build the question for all interfaces with their settings, without their statistics."""
    mask = attribute(_IFLA_EXT_MASK, _UINT.pack(_SKIP_STATS))
    return message(_RTM_GETLINK, NLM_F_DUMP, _IFINFOMSG.pack(0, 0, 0, 0, 0, 0) + mask)


def neighbour_message() -> bytes:
    """Build the question for the settings of neighbour discovery of all interfaces."""
    return message(_RTM_GETNEIGHTBL, NLM_F_DUMP, bytes(4))


def settings_in(body: bytes) -> tuple[int, bytes]:
    """Return an interface's index, and its settings of both families as the kernel's bytes."""
    _, _, _, index, _, _ = _IFINFOMSG.unpack_from(body)
    found = b""
    for kind, start, end in attributes(body, _IFINFOMSG.size, len(body)):
        if kind != _IFLA_AF_SPEC:
            continue
        for family, first, last in attributes(body, start, end):
            wanted = _CONF_OF.get(family)
            found += b"".join(
                body[a:b] for what, a, b in attributes(body, first, last) if what == wanted
            )
    return index, found


def proxy_delay_in(body: bytes) -> tuple[int, bytes] | None:
    """Return an interface's index and its delay of proxy ARP; None for what is of no interface."""
    held = attribute_table(body, 4, len(body)).get(_NDTA_PARMS, b"")
    parms = attribute_table(held, 0, len(held))
    if _NDTPA_IFINDEX not in parms or body[0] != socket.AF_INET:
        return None
    return _UINT.unpack(parms[_NDTPA_IFINDEX])[0], parms.get(_NDTPA_PROXY_DELAY, b"")
