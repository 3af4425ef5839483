"""Netlink messages and attributes as bytes: what all netlink families share.

Pure. It knows headers, attributes and error messages; it refuses to know routes, sets or links, whose
codecs stand beside their drivers.

Source: linux/netlink.h, netlink(7).
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300
#: On an error message: the request's payload is not repeated; attributes follow.
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF

#: The longest attribute: its length field has 16 bits.
MAX_ATTRIBUTE_BYTES = 0xFFFF

_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_FLAGS = struct.Struct("=H")
_SEQ = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
HEADER_BYTES = _HEADER.size
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message(NamedTuple):
    """One received message: its body is `data[start:end]` of the datagram it came in.

    `portid` is the socket that asked for it, or whose change an event tells; 0 for the kernel's own.
    """

    kind: int
    flags: int
    seq: int
    start: int
    end: int
    portid: int = 0


class Failure(NamedTuple):
    """Why the kernel refused a message: an errno (ipset has its own above 4096) and its own words."""

    errno: int
    text: str = ""


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Build a request; the socket numbers it when it is sent."""
    size = HEADER_BYTES + len(body)
    padding = _PADDING[size & 3]
    return _HEADER.pack(size, kind, flags | NLM_F_REQUEST, 0, 0) + body + padding


def attribute(kind: int, data: bytes) -> bytes:
    """Build one attribute with its padding.

    Errors: `ValueError` when the data is longer than the length field can say.
    """
    size = 4 + len(data)
    if size > MAX_ATTRIBUTE_BYTES:
        text = f"netlink attribute {kind & NLA_TYPE_MASK} would take {size} bytes, over 65535"
        raise ValueError(text)
    return _ATTRIBUTE.pack(size, kind) + data + _PADDING[size & 3]


def string(kind: int, text: str) -> bytes:
    """Build an attribute that holds a NUL-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def nested(kind: int, *parts: bytes) -> bytes:
    """Build an attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def number(messages: Sequence[bytes], first_seq: int) -> bytearray:
    """Join messages into one datagram, numbered upwards; only the last asks to be acknowledged.

    The kernel handles a datagram's messages in order and always reports an error, so silence about the
    others, once the last is answered, is success. It saves one answer per message.

    Source: netlink_rcv_skb() in net/netlink/af_netlink.c.
    """
    packed = bytearray().join(messages)
    lengths = set(map(len, messages))
    if len(lengths) == 1:
        stride = lengths.pop()
        # Equal lengths, as in any large batch: all numbers at once, byte by byte; ten times faster.
        seqs = array("I", range(first_seq, first_seq + len(messages))).tobytes()
        for k in range(_SEQ.size):
            packed[8 + k :: stride] = seqs[k :: _SEQ.size]
    else:
        offset = 8
        for seq, one in enumerate(messages, first_seq):
            _SEQ.pack_into(packed, offset, seq)
            offset += len(one)
    at = len(packed) - len(messages[-1]) + 6
    (flags,) = _FLAGS.unpack_from(packed, at)
    _FLAGS.pack_into(packed, at, flags | NLM_F_ACK)
    return packed


def messages_in(data: bytes) -> Iterator[Message]:
    """Walk the messages of one received datagram; a cut-off tail ends the walk."""
    offset = 0
    total = len(data)
    while offset + HEADER_BYTES <= total:
        size, kind, flags, seq, portid = _HEADER.unpack_from(data, offset)
        if size < HEADER_BYTES or offset + size > total:
            return
        yield Message(kind, flags, seq, offset + HEADER_BYTES, offset + size, portid)
        offset += (size + 3) & ~3


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Walk attributes between two offsets as (type, start of its data, end); flags are stripped."""
    unpack = _ATTRIBUTE.unpack_from
    while start + 4 <= end:
        size, kind = unpack(data, start)
        if size < 4 or start + size > end:
            return
        yield kind & NLA_TYPE_MASK, start + 4, start + size
        start += (size + 3) & ~3


def attribute_table(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Return the attributes between two offsets as data per type; the last of a type counts."""
    return {kind: data[first:last] for kind, first, last in attributes(data, start, end)}


def text_of(data: bytes) -> str:
    """Return the text of a NUL-terminated string; undecodable bytes stay distinguishable."""
    return data.split(b"\0", 1)[0].decode(errors="surrogateescape")


def failure_in(data: bytes, found: Message) -> Failure | None:
    """Read an error or end-of-dump message: None for success.

    Source: nlmsgerr and NLMSGERR_ATTR_MSG in linux/netlink.h.
    """
    if found.end - found.start < _CODE.size:
        return None
    (code,) = _CODE.unpack_from(data, found.start)
    if code == 0:
        return None
    text = ""
    if found.kind == NLMSG_ERROR and found.flags & NLM_F_ACK_TLVS:
        start = found.start + 4 + HEADER_BYTES
        if not found.flags & NLM_F_CAPPED:
            (echoed,) = struct.unpack_from("=I", data, found.start + 4)
            start = found.start + 4 + ((echoed + 3) & ~3)
        text = text_of(attribute_table(data, start, found.end).get(_NLMSGERR_ATTR_MSG, b""))
    return Failure(-code, text)
