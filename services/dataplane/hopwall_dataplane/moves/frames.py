"""What a workload that has just begun to run sends by itself, and how the kernel is told to pass on only that.

Three frames are a sign: a gratuitous ARP (RFC 5227: sender and target are the same address), a reverse ARP
(RFC 903), which hypervisors send for a guest after a migration, and an unsolicited neighbour advertisement
(RFC 4861). Ordinary frames are none: who is being prepared may send some too.

Pure.
"""

import struct
from collections.abc import Container
from ipaddress import IPv4Address, IPv6Address

_ETHER = 14
_ARP, _RARP, _IPV6 = 0x0806, 0x8035, 0x86DD
_ICMPV6, _ADVERTISEMENT = 58, 136
_SOLICITED = 0x40

# Instructions of classic BPF (linux/filter.h).
_LDH, _LDB, _LD, _LDX_FROM_A = 0x28, 0x30, 0x20, 0x07
_JEQ, _JEQ_X, _RETURN = 0x15, 0x1D, 0x06
_ALL = 0x40000

#: Passes ARP whose two addresses are equal, RARP, and neighbour advertisements.
FILTER: tuple[tuple[int, int, int, int], ...] = (
    (_LDH, 0, 0, 12),
    (_JEQ, 10, 0, _RARP),
    (_JEQ, 0, 4, _ARP),
    (_LD, 0, 0, 28),
    (_LDX_FROM_A, 0, 0, 0),
    (_LD, 0, 0, 38),
    (_JEQ_X, 5, 6, 0),
    (_JEQ, 0, 5, _IPV6),
    (_LDB, 0, 0, 20),
    (_JEQ, 0, 3, _ICMPV6),
    (_LDB, 0, 0, 54),
    (_JEQ, 0, 1, _ADVERTISEMENT),
    (_RETURN, 0, 0, _ALL),
    (_RETURN, 0, 0, 0),
)


def packed_filter() -> bytes:
    """Return the filter's instructions as the kernel takes them."""
    return b"".join(struct.pack("=HBBI", *one) for one in FILTER)


def is_sign(frame: bytes, addresses: Container[str]) -> bool:
    """Tell whether a frame says that the workload with these addresses (as CIDRs) runs where it came from."""
    if len(frame) < _ETHER:
        return False
    (kind,) = struct.unpack_from("!H", frame, 12)
    body = frame[_ETHER:]
    if kind == _ARP:
        return _is_gratuitous(body, addresses)
    if kind == _RARP:
        return _is_reverse(body)
    return kind == _IPV6 and _is_unsolicited(body, addresses)


def _is_gratuitous(body: bytes, addresses: Container[str]) -> bool:
    if len(body) < 28 or body[:6] != b"\x00\x01\x08\x00\x06\x04":
        return False
    (operation,) = struct.unpack_from("!H", body, 6)
    sender, target = body[14:18], body[24:28]
    return operation in (1, 2) and sender == target and f"{IPv4Address(sender)}/32" in addresses


def _is_reverse(body: bytes) -> bool:
    """Tell a reverse ARP about oneself; the interface says whose it is, as it names no address."""
    if len(body) < 28 or body[:6] != b"\x00\x01\x08\x00\x06\x04":
        return False
    (operation,) = struct.unpack_from("!H", body, 6)
    return operation in (3, 4) and body[8:14] == body[18:24]


def _is_unsolicited(body: bytes, addresses: Container[str]) -> bool:
    # 40 bytes of IPv6 header, then type, code, checksum, flags, target. Hop limit 255: it was not forwarded.
    if len(body) < 64 or body[0] >> 4 != 6 or body[6] != _ICMPV6 or body[7] != 255:
        return False
    if body[40] != _ADVERTISEMENT or body[41] or body[44] & _SOLICITED:
        return False
    return f"{IPv6Address(body[48:64])}/128" in addresses
