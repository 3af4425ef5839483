"""Set ops as netlink bytes, netlink bytes as sets, and errors as outcomes.

Pure. It refuses what our sets do not use: timeouts, counters, comments, netmasks.

Source: linux/netfilter/ipset/ip_set.h, net/netfilter/ipset/ip_set_core.c, ip_set_hash_ipport.c.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address
from socket import inet_ntop, inet_pton
from typing import NamedTuple, cast

from hopwall_dataplane.ipsets.elements import (
    ALTERED,
    AddElements,
    CreateSet,
    DelElements,
    DestroySet,
    Element,
    Mark,
    SetOp,
    SetSpec,
    SetType,
    SwapSets,
)
from hopwall_dataplane.netlink.codec import (
    MAX_ATTRIBUTE_BYTES,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Failure,
    attribute,
    attribute_table,
    attributes,
    message,
    nested,
    string,
    text_of,
)
from hopwall_dataplane.outcome import Done, Family, Outcome, Refused, Retry
from hopwall_model.protocols import has_ports

PROTOCOL = 7

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_CREATE, _DESTROY, _SWAP, _LIST, _ADD, _DEL, _TYPE = 2, 3, 6, 7, 9, 10, 13

# Attributes of a command.
_A_PROTOCOL, _A_SETNAME, _A_TYPENAME, _A_REVISION, _A_FAMILY = 1, 2, 3, 4, 5
_A_SETNAME2, _A_DATA, _A_ADT, _A_LINENO = 3, 7, 8, 9
# Attributes of a set or an element.
_D_IP, _D_CIDR, _D_PORT, _D_TIMEOUT, _D_PROTO, _D_CADT_FLAGS = 1, 3, 4, 6, 7, 8
_D_BITMASK, _D_HASHSIZE, _D_MAXELEM, _D_NETMASK, _D_IFACE, _D_SKBMARK = 12, 18, 19, 20, 23, 27

_FLAG_WITH_SKBINFO = 1 << 6
#: What others may have given a set of ours that we never do: counters, comments, forceadd; a lifetime for
#: elements, and masks that make one element of many addresses.
_FLAGS_NOT_OURS = 1 << 3 | 1 << 4 | 1 << 5
_ATTRIBUTES_NOT_OURS = frozenset({_D_TIMEOUT, _D_NETMASK, _D_BITMASK})

_NFGENMSG = struct.Struct("=BBH")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_HH = struct.Struct("=HH")
_MARK = struct.Struct(">II")

_AF = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_HOST_LENGTH = {Family.V4: "32", Family.V6: "128"}
_LENGTH = {int(socket.AF_INET): 32, int(socket.AF_INET6): 128}
#: What is left of an address by each prefix length that sets can hold.
_HOST_BITS = {af: {f"{n}": bits - n for n in range(1, bits + 1)} for af, bits in _LENGTH.items()}
_FAMILY_OF = {int(socket.AF_INET): Family.V4, int(socket.AF_INET6): Family.V6}
#: Room in one list of elements, less what surrounds it.
_LIST_BYTES = MAX_ATTRIBUTE_BYTES - 4


#: How the kernel lays out an element that is an IPv4 address, and perhaps a prefix length: what surrounds
#: them.
_V4_HEAD = _HH.pack(12, _D_IP | NLA_F_NESTED) + _HH.pack(8, 1)
_CIDR_HEAD = _HH.pack(5, _D_CIDR)
#: An element that is an address and nothing else, after the address.
_NOTHING_ELSE = Element("")[1:]


class PackedElements(NamedTuple):
    """One message, and the elements in it, in order."""

    message: bytes
    elements: list[Element]


def _body(family: Family | None, *parts: bytes) -> bytes:
    """Begin a message's body."""
    head = _NFGENMSG.pack(_AF[family] if family else socket.AF_UNSPEC, 0, 0)
    return head + attribute(_A_PROTOCOL, bytes([PROTOCOL])) + b"".join(parts)


def type_message(type_: str, family: Family) -> bytes:
    """Build the question for the revisions of a set type that the kernel knows."""
    parts = (string(_A_TYPENAME, type_), attribute(_A_FAMILY, bytes([_AF[family]])))
    return message(_SUBSYSTEM | _TYPE, 0, _body(family, *parts))


def parse_revision(body: bytes) -> int:
    """Return the newest revision from the answer to `type_message`."""
    return attribute_table(body, _NFGENMSG.size, len(body))[_A_REVISION][0]


def create_message(op: CreateSet, revision: int) -> bytes:
    """Build the request for an empty set.

    With EXCL: a set that stands already may hold anything, so it must be read before it is used.
    """
    spec = op.spec
    flags = _FLAG_WITH_SKBINFO if spec.skbinfo else 0
    data = nested(
        _A_DATA,
        attribute(_D_CADT_FLAGS | NLA_F_NET_BYTEORDER, _U32.pack(flags)),
        attribute(_D_HASHSIZE | NLA_F_NET_BYTEORDER, _U32.pack(op.hash_size)),
        attribute(_D_MAXELEM | NLA_F_NET_BYTEORDER, _U32.pack(spec.maxelem)),
    )
    parts = (
        string(_A_SETNAME, spec.name),
        string(_A_TYPENAME, spec.type),
        attribute(_A_REVISION, bytes([revision])),
        attribute(_A_FAMILY, bytes([_AF[spec.family]])),
        data,
    )
    return message(_SUBSYSTEM | _CREATE, NLM_F_CREATE | NLM_F_EXCL, _body(spec.family, *parts))


def destroy_message(name: str) -> bytes:
    """Build the request that removes a set."""
    return message(_SUBSYSTEM | _DESTROY, 0, _body(None, string(_A_SETNAME, name)))


def swap_message(op: SwapSets) -> bytes:
    """Build the request that swaps two sets."""
    parts = (string(_A_SETNAME, op.name), string(_A_SETNAME2, op.other))
    return message(_SUBSYSTEM | _SWAP, 0, _body(None, *parts))


def list_message(name: str = "") -> bytes:
    """Build the question for all sets with their content, or for one."""
    which = (string(_A_SETNAME, name),) if name else ()
    return message(_SUBSYSTEM | _LIST, NLM_F_DUMP, _body(None, *which))


# ---------------------------------------------------------------- elements


class ElementPacker:
    """Turns elements of one set into bytes: the hot path of a cold start, so all that is equal for
    all elements is made once.

    Errors: `pack` raises `ValueError` or `OSError` for what is not an element of the set.
    """

    def __init__(self, spec: SetSpec) -> None:
        """Prepare for one set."""
        self._af = _AF[spec.family]
        self._host_length = _HOST_LENGTH[spec.family]
        self._with_interface = "iface" in spec.type
        self._with_port = spec.type == "hash:ip,port"
        self._with_mark = spec.skbinfo
        self._only_hosts = spec.type in ("hash:ip", "hash:ip,port")
        self._plain = not (self._with_interface or self._with_port)
        size = 4 if spec.family is Family.V4 else 16
        self._address_bytes = 8 + size
        self._address = _HH.pack(8 + size, _D_IP | NLA_F_NESTED) + _HH.pack(
            4 + size, (1 if spec.family is Family.V4 else 2) | NLA_F_NET_BYTEORDER
        )
        self._host_head = _HH.pack(12 + size, _A_DATA | NLA_F_NESTED) + self._address

    def pack(self, element: Element, mark: Mark | None) -> bytes:
        """Return one element as a nested attribute."""
        address, _, length = element.cidr.partition("/")
        packed = inet_pton(self._af, address)
        is_host = length == self._host_length
        if is_host and mark is None and self._plain and element[1:] == _NOTHING_ELSE:
            return self._host_head + packed
        return self._pack_slowly(element, mark, packed, "" if is_host else length)

    def _pack_slowly(
        self, element: Element, mark: Mark | None, packed: bytes, length: str
    ) -> bytes:
        """Return an element that has more than a host's address."""
        tail = b""
        if length:
            if self._only_hosts:
                text = f"{element.cidr} is not a single address"
                raise ValueError(text)
            tail = attribute(_D_CIDR, bytes([int(length)]))
        if self._with_interface != bool(element.interface):
            text = f"{element.cidr} must name an interface if and only if the set's type has one"
            raise ValueError(text)
        if element.interface:
            tail += string(_D_IFACE, element.interface)
        tail += self._port(element)
        if mark is not None:
            if not self._with_mark:
                text = f"{element.cidr} has a mark, but the set was made without marks"
                raise ValueError(text)
            tail += attribute(_D_SKBMARK | NLA_F_NET_BYTEORDER, _pack_mark(mark))
        size = 4 + self._address_bytes + len(tail)
        return _HH.pack(size, _A_DATA | NLA_F_NESTED) + self._address + packed + tail

    def _port(self, element: Element) -> bytes:
        """Return the port and the protocol, of sets that have them."""
        if not self._with_port and not element.protocol and not element.port:
            return b""
        if not self._with_port or not has_ports(element.protocol) or not 0 < element.port < 65536:
            text = f"{element.cidr} must have a port, of a protocol with ports, if and only if the set's type has one"
            raise ValueError(text)
        port = attribute(_D_PORT | NLA_F_NET_BYTEORDER, _U16.pack(element.port))
        return port + attribute(_D_PROTO, bytes([element.protocol]))


def _pack_mark(mark: Mark) -> bytes:
    """Return the mark and its mask."""
    try:
        return _MARK.pack(mark.value, mark.mask)
    except struct.error as error:
        text = f"the mark {mark.value}/{mark.mask} does not fit 32 bits"
        raise ValueError(text) from error


def pack_elements(
    op: AddElements | DelElements, packed: Iterable[tuple[Element, bytes]]
) -> Iterator[PackedElements]:
    """Cut packed elements into messages as long as one attribute may be (about 4,000 addresses).

    The kernel applies a message in order up to its first bad element and answers once; who must know
    which one it was sends the elements one by one.
    """
    room = _LIST_BYTES
    parts: list[bytes] = []
    elements: list[Element] = []
    for element, data in packed:
        if len(data) > room:
            yield PackedElements(_elements_message(op, parts), elements)
            parts, elements, room = [], [], _LIST_BYTES
        parts.append(data)
        elements.append(element)
        room -= len(data)
    if parts:
        yield PackedElements(_elements_message(op, parts), elements)


def _elements_message(op: AddElements | DelElements, parts: list[bytes]) -> bytes:
    """Build one message; without EXCL, so adding twice and deleting what is absent are no errors."""
    command = _ADD if isinstance(op, AddElements) else _DEL
    head = string(_A_SETNAME, op.spec.name)
    lineno = attribute(_A_LINENO | NLA_F_NET_BYTEORDER, _U32.pack(0))
    return message(
        _SUBSYSTEM | command, 0, _body(op.spec.family, head, lineno, nested(_A_ADT, *parts))
    )


# ---------------------------------------------------------------- reading


class Listed(NamedTuple):
    """One message of a listing: a piece of a set; `spec` is in a set's first piece."""

    name: str
    spec: SetSpec | None
    elements: dict[Element, Mark | None]


def listed_name(body: bytes) -> str:
    """Return which set a message of a listing is about."""
    for kind, start, end in attributes(body, _NFGENMSG.size, len(body)):
        if kind == _A_SETNAME:
            return text_of(body[start:end])
    return ""


def elements_in(body: bytes) -> Iterator[bytes]:
    """Return what a message of a listing says of a set, unread: its properties, then its elements.

    However the kernel cuts a listing into messages, the parts joined are the same while the set is.
    """
    for kind, start, end in attributes(body, _NFGENMSG.size, len(body)):
        if kind in (_A_TYPENAME, _A_DATA, _A_ADT):
            yield body[start:end]


def parse_listed(body: bytes, family: Family) -> Listed:
    """Read one message of a listing; `family` is used where the message does not repeat it."""
    table = attribute_table(body, _NFGENMSG.size, len(body))
    name = text_of(table[_A_SETNAME])
    spec = _parse_spec(name, table) if _A_TYPENAME in table else None
    elements: dict[Element, Mark | None] = {}
    if _A_ADT in table:
        held = table[_A_ADT]
        af = _AF[spec.family if spec else family]
        for kind, start, end in attributes(held, 0, len(held)):
            if kind == _A_DATA:
                element, mark = _parse_element(held, start, end, af)
                elements[element] = mark
    return Listed(name, spec, elements)


def _parse_spec(name: str, table: Mapping[int, bytes]) -> SetSpec:
    """Read what a set is; one that we would not make ourselves equals none of ours."""
    header = table.get(_A_DATA, b"")
    data = attribute_table(header, 0, len(header))
    flags = _U32.unpack(data[_D_CADT_FLAGS])[0] if _D_CADT_FLAGS in data else 0
    return SetSpec(
        name,
        cast("SetType", text_of(table[_A_TYPENAME])),
        _FAMILY_OF.get(table[_A_FAMILY][0], Family.V4),
        bool(flags & _FLAG_WITH_SKBINFO),
        _U32.unpack(data[_D_MAXELEM])[0] if _D_MAXELEM in data else 0,
        bool(flags & _FLAGS_NOT_OURS) or not _ATTRIBUTES_NOT_OURS.isdisjoint(data),
    )


def _parse_element(data: bytes, start: int, end: int, af: int) -> tuple[Element, Mark | None]:
    """Read one element."""
    if data[start : start + 8] == _V4_HEAD:
        # Nearly all there are: an IPv4 address, perhaps a prefix length, and nothing else.
        rest = data[start + 12 : end]
        if not rest:
            return Element(f"{inet_ntop(af, data[start + 8 : end])}/32"), None
        if len(rest) == 8 and rest[:4] == _CIDR_HEAD:
            return Element(f"{inet_ntop(af, data[start + 8 : start + 12])}/{rest[4]}"), None
    table = attribute_table(data, start, end)
    length = table[_D_CIDR][0] if _D_CIDR in table else _LENGTH[af]
    element = Element(
        f"{_address_text(af, table[_D_IP][4:])}/{length}",
        text_of(table[_D_IFACE]) if _D_IFACE in table else "",
        table[_D_PROTO][0] if _D_PROTO in table else 0,
        _U16.unpack(table[_D_PORT])[0] if _D_PORT in table else 0,
    )
    if any(table.get(_D_CADT_FLAGS, b"")):
        return element, ALTERED
    return element, Mark(*_MARK.unpack(table[_D_SKBMARK])) if _D_SKBMARK in table else None


def stands_as_it_is(cidr: str) -> bool:
    """Tell whether a set can hold this network, and gives it back as the same text.

    Cost: about 1 µs.
    """
    address, _, length = cidr.partition("/")
    af = socket.AF_INET6 if ":" in address else socket.AF_INET
    n_host_bits = _HOST_BITS[af].get(length)
    try:
        packed = inet_pton(af, address)
    except (OSError, ValueError):
        return False
    if n_host_bits is None or int.from_bytes(packed) & ((1 << n_host_bits) - 1):
        return False
    return _address_text(af, packed) == address


def _address_text(af: int, packed: bytes) -> str:
    text = inet_ntop(af, packed)
    # The C library ends ::/96 in dots, which is not how the model writes it.
    return str(IPv6Address(packed)) if "." in text and af == socket.AF_INET6 else text


# ---------------------------------------------------------------- outcomes

_SPECIFIC = 4352  # IPSET_ERR_TYPE_SPECIFIC
_WORDS = {
    4097: "protocol error",
    4098: "the kernel does not know this set type; load its ip_set module",
    4099: "the kernel holds as many sets as it can",
    4100: "the set is in use",
    4101: "the set to swap with does not exist",
    4102: "sets of different types or families cannot be swapped",
    4103: "the element is already there, or is absent",
    4104: "the prefix length is not valid for this set",
    4105: "the netmask is not valid for this set",
    4106: "the address family does not fit the set",
    4108: "the set is in use by a rule or another set",
    4109: "an IPv4 address was expected",
    4110: "an IPv6 address was expected",
    4114: "the set was made without marks",
    _SPECIFIC: "the set is full (maxelem)",
    _SPECIFIC + 1: "the null address cannot be stored",
}
_RETRIED = frozenset(
    {
        4099,
        4100,
        4101,
        4108,
        errno.EEXIST,
        errno.ENOENT,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ETIMEDOUT,
        errno.EPERM,
    }
)
#: What is no failure, because what was asked for already holds.
_HOLDS: Mapping[type[SetOp], frozenset[int]] = {
    DestroySet: frozenset({errno.ENOENT}),
    DelElements: frozenset({errno.ENOENT, 4103}),
    AddElements: frozenset({4103}),
}


def outcome_of(op: SetOp, failure: Failure) -> Outcome:
    """Say what the kernel's error means for an op.

    Errors: an errno not in the table is refused: an op that can never work must not be tried for ever.
    Source: ip_set_errno in linux/netfilter/ipset/ip_set.h; each row was seen on a real kernel.
    """
    code = failure.errno
    if code in _HOLDS.get(type(op), ()):
        return Done()
    said = (
        failure.text or _WORDS.get(code) or (os.strerror(code) if code < 4096 else f"error {code}")
    )
    if isinstance(op, CreateSet):
        text = f"set {op.spec.name} could not be made: {said}"
        if code == errno.EEXIST:
            text = f"set {op.spec.name} stands already; it must be read before it is used"
    elif isinstance(op, DestroySet):
        text = f"set {op.name} could not be removed: {said}"
    elif isinstance(op, SwapSets):
        text = f"sets {op.name} and {op.other} could not be swapped: {said}"
    else:
        text = f"elements of set {op.spec.name} could not be changed: {said}"
    return Retry(text) if code in _RETRIED else Refused(text)
