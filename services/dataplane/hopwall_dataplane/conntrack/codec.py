"""Tracked flows as ctnetlink bytes, and the host's own addresses as rtnetlink bytes.

Pure. A table may have a hundred thousand entries of which a handful matter, so an entry is left as soon as
its addresses are seen to be nobody's; all else about it is read only then.

Source: linux/netfilter/nfnetlink_conntrack.h, ctnetlink_fill_info() in net/netfilter/nf_conntrack_netlink.c;
rtnetlink(7).
"""

import os
import socket
import struct
import sys
from collections.abc import Container

from hopwall_dataplane.conntrack.flow import DeleteFlow, Flow, FlowOp
from hopwall_dataplane.netlink.codec import (
    HEADER_BYTES,
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attribute_table,
    attributes,
    failure_in,
    message,
    messages_in,
)
from hopwall_model.protocols import TCP

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
CT_NEW = _SUBSYSTEM
CT_GET = _SUBSYSTEM | 1
CT_DELETE = _SUBSYSTEM | 2

_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY = 1, 2
_CTA_STATUS = 3
_CTA_PROTOINFO = 4
_CTA_TIMEOUT = 7
_CTA_MARK = 8
_CTA_ID = 12
_CTA_TUPLE_MASTER = 14
_CTA_ZONE = 18
_CTA_MARK_MASK = 21
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST, _CTA_IP_V6_SRC, _CTA_IP_V6_DST = 1, 2, 3, 4
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_ICMP_TYPE, _CTA_ICMP_CODE = 5, 6
_CTA_ICMPV6_TYPE, _CTA_ICMPV6_CODE = 8, 9

_CTA_PROTOINFO_TCP = 1
_CTA_TCP_STATE, _CTA_TCP_FLAGS_ORIGINAL, _CTA_TCP_FLAGS_REPLY = 1, 4, 5
_TCP_ESTABLISHED = 3
#: The window is not known here: any sequence number is taken. Flags and their mask (struct nf_ct_tcp_flags).
_TCP_LIBERAL = b"\x08\x08"

_RTM_GETROUTE, _RTM_GETRULE = 26, 34
_TABLE_LOCAL = 255
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_RTA_DST, _RTA_OIF = 1, 4
_RTM_F_FIB_MATCH = 0x2000
#: main, default, local; and the action that looks a table up.
_PLAIN_TABLES, _FR_ACT_TO_TBL = (254, 253, 255), 1

_NFGENMSG = struct.Struct("!BBH")
_HEADER = struct.Struct("=IHHII")
_HEAD = struct.Struct("=HHHHHH")
_U32 = struct.Struct("!I")
_RTMSG = struct.Struct("=BBBBBBBBI")

_DUMP_ALL = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)
#: In the last byte of the status: the connection was expected by another, its master.
_IPS_EXPECTED = 1
#: CONFIRMED is what an entry in the table is; the kernel refuses a status without it.
_IPS_SEEN_REPLY, _IPS_ASSURED, _IPS_CONFIRMED = 2, 4, 8
_ANSWERED = _U32.pack(_IPS_SEEN_REPLY | _IPS_ASSURED | _IPS_CONFIRMED)
#: Of a flow that was carried here: until its next packet sets the kernel's own.
_CARRIED_TIMEOUT_S = {6: 600, 17: 120}


def dump_message() -> bytes:
    """Build the question for all entries of all families."""
    return message(CT_GET, NLM_F_DUMP, _DUMP_ALL)


def op_message(op: FlowOp, bits: int) -> bytes:
    """Build the request for an op; `bits`, all set, say that a flow is revoked.

    A request for a new entry, without NLM_F_CREATE, changes the one there is; the mask leaves all other
    bits of its mark alone. A deletion names the entry's id, so that it cannot hit a later one.

    Source: ctnetlink_new_conntrack(), ctnetlink_change_mark(), ctnetlink_del_conntrack().
    """
    entry = op.flow.entry
    parts = attribute_table(entry, 0, len(entry))
    body = _NFGENMSG.pack(socket.AF_INET if op.flow.version == 4 else socket.AF_INET6, 0, 0)
    body += attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, parts[_CTA_TUPLE_ORIG])
    if _CTA_ZONE in parts:
        body += attribute(_CTA_ZONE, parts[_CTA_ZONE])
    if isinstance(op, DeleteFlow):
        return message(CT_DELETE, 0, body + attribute(_CTA_ID, parts[_CTA_ID]))
    body += attribute(_CTA_MARK, _U32.pack(bits if op.revoked else 0))
    return message(CT_NEW, 0, body + attribute(_CTA_MARK_MASK, _U32.pack(bits)))


def creation_message(flow: Flow) -> bytes:
    """Build the request for an entry of a TCP or UDP flow that another host has seen begin and be answered.

    Where there is one already, the kernel refuses it (EEXIST).

    Source: ctnetlink_create_conntrack(); tcp_in_window() for a side whose window is not known.
    """
    body = _named(flow)
    back = (flow.destination, flow.source, flow.destination_port, flow.source_port)
    body += _tuple(_CTA_TUPLE_REPLY, flow.protocol, *back)
    body += attribute(_CTA_TIMEOUT, _U32.pack(_CARRIED_TIMEOUT_S[flow.protocol]))
    body += attribute(_CTA_STATUS, _ANSWERED)
    if flow.protocol == TCP:
        state = attribute(_CTA_TCP_STATE, bytes([_TCP_ESTABLISHED]))
        state += attribute(_CTA_TCP_FLAGS_ORIGINAL, _TCP_LIBERAL)
        state += attribute(_CTA_TCP_FLAGS_REPLY, _TCP_LIBERAL)
        tcp = attribute(_CTA_PROTOINFO_TCP | NLA_F_NESTED, state)
        body += attribute(_CTA_PROTOINFO | NLA_F_NESTED, tcp)
    return message(CT_NEW, NLM_F_CREATE | NLM_F_EXCL, body)


def question_message(flow: Flow) -> bytes:
    """Build the question for the entry that has a flow in either direction."""
    return message(CT_GET, 0, _named(flow))


def parse_answer(body: bytes) -> Flow | None:
    """Read the answer to it."""
    return parse_flow(body[_NFGENMSG.size :])


def answered_message(flow: Flow) -> bytes:
    """Build the request that makes a flow's entry one that has been answered.

    Source: ctnetlink_change_status(), which lets nobody take that back.
    """
    return message(CT_NEW, 0, _named(flow) + attribute(_CTA_STATUS, _ANSWERED))


def _named(flow: Flow) -> bytes:
    """Name an entry to the kernel by the first direction of its flow."""
    head = _NFGENMSG.pack(socket.AF_INET if flow.version == 4 else socket.AF_INET6, 0, 0)
    there = (flow.source, flow.destination, flow.source_port, flow.destination_port)
    return head + _tuple(_CTA_TUPLE_ORIG, flow.protocol, *there)


def _tuple(
    kind: int, protocol: int, source: bytes, destination: bytes, source_port: int, port: int
) -> bytes:
    v4 = len(source) == 4
    ip = attribute(_CTA_IP_V4_SRC if v4 else _CTA_IP_V6_SRC, source)
    ip += attribute(_CTA_IP_V4_DST if v4 else _CTA_IP_V6_DST, destination)
    proto = attribute(_CTA_PROTO_NUM, bytes([protocol]))
    proto += attribute(_CTA_PROTO_SRC_PORT, source_port.to_bytes(2))
    proto += attribute(_CTA_PROTO_DST_PORT, port.to_bytes(2))
    parts = attribute(_CTA_TUPLE_IP | NLA_F_NESTED, ip)
    return attribute(kind | NLA_F_NESTED, parts + attribute(_CTA_TUPLE_PROTO | NLA_F_NESTED, proto))


# ---------------------------------------------------------------- reading


def flows_in(data: bytes, seq: int, watched: Container[bytes]) -> tuple[list[Flow], int, bool]:
    """Read one datagram of a dump.

    Shape:  the flows of which a watched (packed) address is an end, how many entries were looked at, and
            whether the dump ends here.
    Errors: `OSError` with the kernel's errno when it refuses the dump.
    Cost:   about 2 µs an entry that nobody watches, 8 µs one that somebody does.
    """
    flows: list[Flow] = []
    n_seen = 0
    offset, total = 0, len(data)
    unpack = _HEADER.unpack_from
    widths: dict[bytes, tuple[int, int]] = {}
    while offset + HEADER_BYTES <= total:
        size, kind, _, of, _ = unpack(data, offset)
        if size < HEADER_BYTES or offset + size > total:
            break
        start, end = offset + HEADER_BYTES + _NFGENMSG.size, offset + size
        offset += (size + 3) & ~3
        if of != seq:
            continue
        if kind != CT_NEW:
            if _ends(data, seq):
                return flows, n_seen, True
            continue
        n_seen += 1
        head = data[start : start + _HEAD.size]
        try:
            width, tuple_size = widths[head]
        except KeyError:
            width, tuple_size = widths[head] = _widths_of(head)
        at = start + _HEAD.size
        if width and not (
            data[at : at + width] in watched
            or data[at + tuple_size : at + tuple_size + width] in watched
            or data[at + width + 4 : at + 2 * width + 4] in watched
            or data[at + tuple_size + width + 4 : at + tuple_size + 2 * width + 4] in watched
        ):
            continue
        flow = _plain_flow(data, start, end, width, tuple_size) or parse_flow(data[start:end])
        if flow is not None and any(address in watched for address in flow.ends):
            flows.append(flow)
    return flows, n_seen, False


def _ends(data: bytes, seq: int) -> bool:
    """Tell whether a datagram ends the dump; raise what the kernel refused it for."""
    for found in messages_in(data):
        if found.seq == seq and found.kind in (NLMSG_DONE, NLMSG_ERROR):
            failure = failure_in(data, found)
            if failure is not None:
                text = failure.text or os.strerror(failure.errno)
                raise OSError(failure.errno, f"the tracked flows cannot be read: {text}")
            return True
    return False


def _widths_of(head: bytes) -> tuple[int, int]:
    """Return the bytes of an address and of a whole tuple, by how an entry begins.

    (0, 0) when it does not begin as the kernel has always begun one: it is then read attribute by attribute.
    """
    if len(head) < _HEAD.size:
        return 0, 0
    tuple_size, tuple_kind, _, ip_kind, address_size, address_kind = _HEAD.unpack(head)
    known = (tuple_kind, ip_kind) == (
        _CTA_TUPLE_ORIG | NLA_F_NESTED,
        _CTA_TUPLE_IP | NLA_F_NESTED,
    )
    if not known or (address_kind, address_size) not in ((_CTA_IP_V4_SRC, 8), (_CTA_IP_V6_SRC, 20)):
        return 0, 0
    return address_size - 4, (tuple_size + 3) & ~3


#: Two tuples of a protocol with ports, after the head of the first address.
_PLAIN = {
    4: struct.Struct("!" + "12x4s4x4s8xB3x4xH2x4xH2x" * 2),
    16: struct.Struct("!" + "12x16s4x16s8xB3x4xH2x4xH2x" * 2),
}
_HEAD_BYTES = struct.Struct("=HH")
#: The heads of a tuple's protocol part and its number, of the two ports: 28 bytes in all.
_NUMBER_HEAD = _HEAD_BYTES.pack(28, _CTA_TUPLE_PROTO | NLA_F_NESTED) + _HEAD_BYTES.pack(
    5, _CTA_PROTO_NUM
)
_SOURCE_HEAD = _HEAD_BYTES.pack(6, _CTA_PROTO_SRC_PORT)
_DESTINATION_HEAD = _HEAD_BYTES.pack(6, _CTA_PROTO_DST_PORT)


def _plain_flow(data: bytes, start: int, end: int, width: int, tuple_size: int) -> Flow | None:
    """Read what nearly all entries are, at once: a protocol with ports, no master. None for all else."""
    plain = _PLAIN.get(width)
    if plain is None or plain.size != 2 * tuple_size or start + plain.size > end:
        return None
    at = start + tuple_size - 28
    if (
        data[at : at + 8] != _NUMBER_HEAD
        or data[at + 12 : at + 16] != _SOURCE_HEAD
        or data[at + 20 : at + 24] != _DESTINATION_HEAD
    ):
        return None
    source, there, protocol, source_port, port, destination, back, _, destination_port, _ = (
        plain.unpack_from(data, start)
    )
    mark = 0
    for kind, first, _ in attributes(data, start + plain.size, end):
        if kind == _CTA_STATUS and data[first + 3] & _IPS_EXPECTED:
            return None
        if kind == _CTA_MARK:
            (mark,) = _U32.unpack_from(data, first)
            break
    return Flow(
        4 if width == 4 else 6,
        protocol,
        source,
        destination,
        source_port,
        destination_port,
        None,
        None,
        mark,
        (source, destination, there, back),
        data[start:end],
        None if (there, port) == (destination, destination_port) else (there, port),
    )


def is_established(flow: Flow) -> bool:
    """Tell whether both sides have spoken, of TCP also that it is neither opening nor closing."""
    parts = attribute_table(flow.entry, 0, len(flow.entry))
    return _is_answered(parts) and _is_open(flow, parts)


def is_picked_up(flow: Flow) -> bool:
    """Tell whether an entry began in the middle of a flow, or with UDP may have, and has seen no answer yet."""
    parts = attribute_table(flow.entry, 0, len(flow.entry))
    return not _is_answered(parts) and _is_open(flow, parts)


def _is_answered(parts: dict[int, bytes]) -> bool:
    return bool(int.from_bytes(parts.get(_CTA_STATUS, b"")) & _IPS_SEEN_REPLY)


def _is_open(flow: Flow, parts: dict[int, bytes]) -> bool:
    if flow.protocol != TCP:
        return True
    info = parts.get(_CTA_PROTOINFO, b"")
    tcp = attribute_table(info, 0, len(info)).get(_CTA_PROTOINFO_TCP, b"")
    return attribute_table(tcp, 0, len(tcp)).get(_CTA_TCP_STATE) == bytes([_TCP_ESTABLISHED])


class _Tuple:
    """One direction of an entry."""

    __slots__ = (
        "code",
        "destination",
        "destination_port",
        "kind",
        "protocol",
        "source",
        "source_port",
    )

    def __init__(self, data: bytes) -> None:
        """Read it.

        Errors: KeyError when it is not of IP.
        """
        parts = attribute_table(data, 0, len(data))
        ip = attribute_table(parts[_CTA_TUPLE_IP], 0, len(parts[_CTA_TUPLE_IP]))
        proto = attribute_table(parts[_CTA_TUPLE_PROTO], 0, len(parts[_CTA_TUPLE_PROTO]))
        v4 = _CTA_IP_V4_SRC in ip
        self.source = ip[_CTA_IP_V4_SRC if v4 else _CTA_IP_V6_SRC]
        self.destination = ip[_CTA_IP_V4_DST if v4 else _CTA_IP_V6_DST]
        self.protocol = proto[_CTA_PROTO_NUM][0]
        self.source_port = int.from_bytes(proto.get(_CTA_PROTO_SRC_PORT, b""))
        self.destination_port = int.from_bytes(proto.get(_CTA_PROTO_DST_PORT, b""))
        kind = proto.get(_CTA_ICMP_TYPE if v4 else _CTA_ICMPV6_TYPE)
        code = proto.get(_CTA_ICMP_CODE if v4 else _CTA_ICMPV6_CODE)
        self.kind = kind[0] if kind else None
        self.code = code[0] if code else None


def parse_flow(entry: bytes) -> Flow | None:
    """Read the attributes of one entry; None for one that has not two tuples of IP addresses."""
    parts = attribute_table(entry, 0, len(entry))
    try:
        there = _Tuple(parts[_CTA_TUPLE_ORIG])
        back = _Tuple(parts[_CTA_TUPLE_REPLY])
        master = _Tuple(parts[_CTA_TUPLE_MASTER]) if _CTA_TUPLE_MASTER in parts else None
    except KeyError:
        return None
    first = master or there
    return Flow(
        version=4 if len(first.source) == 4 else 6,
        protocol=first.protocol,
        source=first.source,
        destination=master.destination if master else back.source,
        source_port=first.source_port,
        destination_port=master.destination_port if master else back.source_port,
        icmp_type=first.kind,
        icmp_code=first.code,
        mark=int.from_bytes(parts.get(_CTA_MARK, b"")),
        ends=(there.source, back.source, there.destination, back.destination),
        entry=entry,
        asked=None
        if master or (there.destination, there.destination_port) == (back.source, back.source_port)
        else (there.destination, there.destination_port),
    )


# ---------------------------------------------------------------- the host's own addresses


def local_message(version: int) -> bytes:
    """Build the question for what the host takes for its own, of one family: its local routing table.

    Source: NETLINK_GET_STRICT_CHK, ip_valid_fib_dump_req() in net/ipv4/fib_frontend.c.
    """
    af = socket.AF_INET if version == 4 else socket.AF_INET6
    return message(
        _RTM_GETROUTE, NLM_F_DUMP, _RTMSG.pack(af, 0, 0, 0, _TABLE_LOCAL, 0, 0, _RTN_LOCAL, 0)
    )


def parse_local(body: bytes) -> tuple[bytes, int] | None:
    """Read one route of that table as (packed address, prefix length); None for another kind of route."""
    af, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
    if table != _TABLE_LOCAL or kind != _RTN_LOCAL:
        return None
    width = 16 if af == socket.AF_INET6 else 4
    return attribute_table(body, _RTMSG.size, len(body)).get(_RTA_DST, bytes(width)), length


# ---------------------------------------------------------------- the ways the host sends by


def way_message(address: bytes) -> bytes:
    """Build the question for the route to a packed address: all of it, not the hop one packet takes."""
    af = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    head = _RTMSG.pack(af, len(address) * 8, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    return message(_RTM_GETROUTE, 0, head + attribute(_RTA_DST, address))


def parse_way(body: bytes) -> int | None:
    """Read the answer: the index of the interface, None for several, 0 when nothing is sent on."""
    if body[7] != _RTN_UNICAST:
        return 0
    out = attribute_table(body, _RTMSG.size, len(body)).get(_RTA_OIF)
    return int.from_bytes(out, sys.byteorder) if out else None


def rules_message(version: int) -> bytes:
    """Build the question for the rules that choose routing tables."""
    af = socket.AF_INET if version == 4 else socket.AF_INET6
    return message(_RTM_GETRULE, NLM_F_DUMP, _RTMSG.pack(af, 0, 0, 0, 0, 0, 0, 0, 0))


def is_plain_rule(body: bytes) -> bool:
    """Tell whether a rule is one of those every host has: routes then depend on the destination alone."""
    return body[4] in _PLAIN_TABLES and body[7] == _FR_ACT_TO_TBL and not any(body[1:4])
