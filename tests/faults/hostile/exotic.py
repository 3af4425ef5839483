"""Shapes from the far ends of the standards: chains of headers, rare tunnels, rare frames, lengths that lie."""

import struct
from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_SSRR,
    IPOption_Stream_Id,
)
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from tests.faults.hostile.maker import OPEN, SHUT, Maker, Places, Shape, marker

#: Frames that speak of the link itself, or carry a packet in a way a host may know how to undo.
_ETHER_TYPES = {
    "MPLS": (0x8847, b"\0\x01\x01\xff"),
    "PPPoE": (0x8864, b"\x11\0\0\x01\0\x60\0\x21"),
    "EAPOL": (0x888E, b"\x01\0\0\x08"),
    "LLDP": (0x88CC, b"\x02\x07\x04"),
    "PTP": (0x88F7, b"\x00\x02\0\x2c"),
    "MACsec": (0x88E5, b"\0\0\0\0\0\x01"),
    "NSH": (0x894F, b"\x0f\xc6\x01\x01\0\0\0\0"),
    "provider backbone": (0x88E7, b"\0\0\0\x01"),
    "loopback": (0x9000, b"\0\0\x01\0"),
    "batman": (0x4305, b"\x15\x0f\0\0"),
    "RARP": (0x8035, b"\0\x01\x08\0\x06\x04\0\x03"),
}
#: Tunnels over UDP, by the port on which a host would undo them.
_UDP_TUNNELS = {
    "Teredo": (3544, b""),
    "Geneve": (6081, b"\0\0\x65\x58\0\0\x01\0"),
    "L2TP": (1701, b"\0\x02\0\x01\0\x01"),
    "GTP": (2152, b"\x30\xff\0\x40\0\0\0\x01"),
    "ESP in UDP": (4500, b"\0\0\0\x01\0\0\0\x01"),
    "GUE": (6080, b"\0\x04\0\0"),
    "WireGuard": (51820, b"\x04\0\0\0\0\0\0\x01"),
}
#: Protocols with ports of their own, and others that routers speak.
_PROTOCOLS = (41, 46, 88, 98, 103, 108, 115, 124, 137, 138, 139, 140, 142, 253)


def exotic(p: Places, family: int) -> Iterator[Shape]:
    """Yield all of one family."""
    yield from _link(p, family)
    yield from _udp_tunnels(p, family)
    yield from _lengths(p, family)
    yield from _mixed_fragments(p, family)
    yield from _handshakes(p, family)
    yield from (_odd4 if family == 4 else _odd6)(p)


def _link(p: Places, family: int) -> Iterator[Shape]:
    """A packet that is not the sender's, within a frame of another kind."""
    make = Maker(p, family)
    for what, (kind, head) in _ETHER_TYPES.items():
        name = f"spoofed, {what}"
        inner = bytes(make.udp(name, p.remote[family], p.b[family]))
        for target in (p.host_mac, "01:80:c2:00:00:0e"):
            frame = Ether(src=p.own_mac, dst=target, type=kind) / Raw(head + inner)
            yield make.shape(f"{name} to {'the host' if target == p.host_mac else 'all'}", frame)
    name = "spoofed, a hundred VLANs"
    kind = 0x0800 if family == 4 else 0x86DD
    tags = struct.pack("!HH", 0, 0x8100) * 100 + struct.pack("!HH", 0, kind)
    inner = bytes(make.udp(name, p.remote[family], p.b[family]))
    yield make.shape(name, Ether(src=p.own_mac, dst=p.host_mac, type=0x8100) / Raw(tags + inner))


def _udp_tunnels(p: Places, family: int) -> Iterator[Shape]:
    make = Maker(p, family)
    for where, target in (("b", p.b[family]), ("the host", p.host[family])):
        for what, (port, head) in _UDP_TUNNELS.items():
            name = f"{what} to {where}"
            inner = make.udp(name, p.b[family], p.remote[family])
            data = Raw(head + bytes(inner))
            ports = UDP(sport=4000, dport=port)
            yield make.shape(name, make.ip(src=p.a[family], dst=target) / ports / data)
        for number in _PROTOCOLS:
            name = f"protocol {number} to {where}, with a packet in it"
            inner = bytes(make.udp(name, p.b[family], p.remote[family]))
            yield make.shape(name, _raw(p, family, number, b"\0\x01\0\x01" + inner, target))


def _raw(p: Places, family: int, number: int, data: bytes, target: str, source: str = "") -> Any:
    source = source or p.a[family]
    if family == 4:
        return IP(src=source, dst=target, proto=number) / Raw(data)
    return IPv6(src=source, dst=target, nh=number) / Raw(data)


def _lengths(p: Places, family: int) -> Iterator[Shape]:
    """Lengths and checksums that are not what is there."""
    make = Maker(p, family)
    for where, source, target, port in (
        ("spoofed", p.b[family], p.remote[family], OPEN),
        ("to a port that policy denies", p.a[family], p.b[family], SHUT),
        ("to the host", p.a[family], p.host[family], OPEN),
    ):
        head = make.ip(src=source, dst=target)
        for what, fields in {
            "length 0": {"len": 0, "chksum": 0 if family == 4 else 0xFFFF},
            "length 7": {"len": 7},
            "length 60000": {"len": 60000},
            "a wrong checksum": {"chksum": 0x1234},
        }.items():
            name = f"{where}, UDP with {what}"
            ports = UDP(sport=4000, dport=port, **fields)
            yield make.shape(name, head / ports / make.load(name))
        name = f"{where}, and nothing of UDP but its ports"
        yield make.shape(name, _raw(p, family, 17, struct.pack("!HH", 4000, port), target, source))
        for hops in (0, 1):
            name = f"{where}, with {hops} hops to go"
            limit = {"ttl": hops} if family == 4 else {"hlim": hops}
            if where == "spoofed" or hops == 0:
                packet = make.ip(src=source, dst=target, **limit) / UDP(sport=4000, dport=port)
                yield make.shape(name, packet / make.load(name))


def _mixed_fragments(p: Places, family: int) -> Iterator[Shape]:
    """Fragments of which one is not what the others are."""
    make = Maker(p, family)

    def piece(data: bytes, at: int, more: bool, ident: int, source: str, target: str) -> Any:
        if family == 4:
            head = IP(src=source, dst=target, id=ident, proto=17, frag=at // 8, flags=int(more))
            return head / Raw(data)
        part = IPv6ExtHdrFragment(id=ident, offset=at // 8, m=int(more), nh=17)
        return IPv6(src=source, dst=target) / part / Raw(data)

    def whole(name: str, port: int) -> bytes:
        body = Raw(marker(name, family).ljust(96))
        ports = UDP(sport=4000, dport=port)
        return bytes(make.ether / make.ip(src=p.a[family], dst=p.b[family]) / ports / body)[-104:]

    a, b, host = p.a[family], p.b[family], p.host[family]
    remote = p.remote[family]
    name = "fragments, the first with the sender's address, the last with another's"
    data = whole(name, OPEN)
    yield make.shape(
        name, piece(data[:8], 0, True, 70, a, b), piece(data[8:], 8, False, 70, remote, b)
    )
    name = "fragments to the host"
    data = whole(name, OPEN)
    yield make.shape(
        name, piece(data[:56], 0, True, 71, a, host), piece(data[56:], 56, False, 71, a, host)
    )
    name = "a fragment beyond the greatest packet, spoofed"
    data = whole(name, OPEN)
    yield make.shape(
        name, piece(data[:56], 0, True, 72, remote, b), piece(data, 65528, False, 72, remote, b)
    )
    name = "fragments, ports that policy denies only in the second"
    data = whole(name, SHUT)
    if family == 6:
        pad = bytes([17, 0, 1, 4, 0, 0, 0, 0])
        first = IPv6(src=a, dst=b) / IPv6ExtHdrFragment(id=73, offset=0, m=1, nh=60) / Raw(pad)
        second = IPv6(src=a, dst=b) / IPv6ExtHdrFragment(id=73, offset=1, m=0, nh=60) / Raw(data)
        yield make.shape(name, first, second)
        name = "a fragment in a fragment, spoofed"
        inner = bytes(IPv6ExtHdrFragment(id=74, nh=17)) + whole(name, OPEN)
        head = IPv6(src=remote, dst=b) / IPv6ExtHdrFragment(id=75, nh=44)
        yield make.shape(name, head / Raw(inner))
    else:
        yield make.shape(
            name, piece(data[:8], 0, True, 73, a, b), piece(data[8:], 8, False, 73, a, b)
        )


def _handshakes(p: Places, family: int) -> Iterator[Shape]:
    """First packets of connections that carry more than they should, or are answers to nobody."""
    make = Maker(p, family)
    a, b, remote, host = p.a[family], p.b[family], p.remote[family], p.host[family]
    segments: dict[str, dict[str, Any]] = {
        "data": {"flags": "S"},
        "urgent data": {"flags": "SU", "urgptr": 4},
        "a cookie of fast open": {"flags": "S", "options": [(34, b"12345678")]},
        "an MD5 signature": {"flags": "S", "options": [(19, bytes(16))]},
        "a header longer than it is": {"flags": "S", "dataofs": 15},
        "a header shorter than it may be": {"flags": "S", "dataofs": 2},
        "reserved bits": {"flags": "S", "reserved": 7},
        "ECN and CWR": {"flags": "SEC"},
    }
    for what, fields in segments.items():
        for where, source, target, port in (
            ("to a port that policy denies", a, b, 81),
            ("spoofed", b, remote, 80),
        ):
            name = f"SYN with {what}, {where}"
            segment = TCP(sport=4003, dport=port, **fields) / make.load(name)
            yield make.shape(name, make.ip(src=source, dst=target) / segment)
    name = "SYN and ACK that answer nobody, from the remote machine's address"
    segment = TCP(sport=80, dport=4004, flags="SA") / make.load(name)
    yield make.shape(name, make.ip(src=remote, dst=b) / segment)
    name = "SYN and ACK that answer nobody, to a port that policy denies"
    segment = TCP(sport=80, dport=4004, flags="SA") / make.load(name)
    yield make.shape(name, make.ip(src=a, dst=b) / segment)
    init = struct.pack("!BBHIIHHI", 1, 0, 200, 7, 65535, 2, 2, 1)
    for what, chunk in (
        ("INIT", init),
        ("ABORT", b"\x06\x01\0\x04"),
        ("HEARTBEAT", b"\x04\0\0\x04"),
    ):
        for where, source, target in (
            ("to b", a, b),
            ("spoofed", b, remote),
            ("to the host", a, host),
        ):
            name = f"SCTP {what} {where}"
            data = struct.pack("!HHII", OPEN, OPEN, 0, 0) + chunk + marker(name, family)
            yield make.shape(name, _raw(p, family, 132, data, target, source))


def _odd4(p: Places) -> Iterator[Shape]:
    yield from _heads4(p)
    yield from _asked4(p)


def _heads4(p: Places) -> Iterator[Shape]:
    """Headers that are not well made, and options that few send."""
    make = Maker(p, 4)
    for what, fields in {
        "version 6": {"version": 6},
        "version 0": {"version": 0},
        "a header of 16 bytes": {"ihl": 4},
        "a header longer than the packet": {"ihl": 15, "len": 40},
        "a length of 10": {"len": 10},
        "a length beyond the frame": {"len": 9000},
        "a wrong checksum": {"chksum": 0x1234},
        "the reserved flag": {"flags": 4},
        "both fragment flags": {"flags": 3},
    }.items():
        name = f"spoofed, IP with {what}"
        head = IP(src=p.b[4], dst=p.remote[4], **fields)
        yield make.shape(name, head / UDP(sport=4000, dport=OPEN) / make.load(name))
    for what, option in {
        "a strict source route": IPOption_SSRR(routers=[p.b[4]]),
        "a stream's id": IPOption_Stream_Id(security=1),
        "a security label": Raw(bytes((134, 6, 0, 0, 0, 1))),
        "an option of length 0": Raw(bytes((68, 0, 5, 0))),
        "an option beyond its header": Raw(bytes((7, 39, 4, 0))),
    }.items():
        for where, source, target in (
            ("spoofed", p.b[4], p.remote[4]),
            ("to the host", p.a[4], p.host[4]),
        ):
            if where == "to the host" and ("beyond" in what or "length 0" in what):
                continue  # told to the sender itself, as any router does
            name = f"{where} with {what}"
            head = IP(src=source, dst=target, options=[option])
            yield make.shape(name, head / UDP(dport=OPEN) / make.load(name))


def _asked4(p: Places) -> Iterator[Shape]:
    """Questions that a host might answer, and claims in forms that few send."""
    make = Maker(p, 4)
    everybody = "ff:ff:ff:ff:ff:ff"
    for what, request in {
        "timestamp": ICMP(type=13), "address mask": ICMP(type=17), "information": ICMP(type=15),
        "router solicitation": ICMP(type=10), "router advertisement": ICMP(type=9),
        "extended echo": ICMP(type=42),
    }.items():  # fmt: skip
        for where, target in (("the host", p.host[4]), ("all hosts", "224.0.0.1"), ("b", p.b[4])):
            name = f"ICMP {what} to {where}"
            ether = Ether(src=p.own_mac, dst=everybody if where == "all hosts" else p.host_mac)
            head = IP(src=p.a[4], dst=target)
            yield make.shape(name, head / request / make.load(name), ether=ether)
    name = "IGMP query"
    yield make.shape(
        name, IP(src=p.a[4], dst="224.0.0.1", proto=2, ttl=1) / Raw(b"\x11\x0a\0\0" + bytes(4) + marker(name, 4)),
        ether=Ether(src=p.own_mac, dst="01:00:5e:00:00:01"),
    )  # fmt: skip
    claims: dict[str, dict[str, Any]] = {
        "claim of the neighbour by another frame's sender": {"hwsrc": p.own_mac, "psrc": p.b[4]},
        "claim of the neighbour for everybody's address": {"hwsrc": everybody, "psrc": p.b[4]},
        "claim of the neighbour by inverse ARP": {"op": 9, "hwsrc": p.own_mac, "psrc": p.b[4]},
        "claim of the host's loopback": {"hwsrc": p.own_mac, "psrc": "127.0.0.1"},
        "claim of everybody": {"hwsrc": p.own_mac, "psrc": "255.255.255.255"},
    }
    for what, fields in claims.items():
        asked = ARP(**{"op": 2, "pdst": p.host[4], "hwdst": p.host_mac} | fields)
        yield make.shape(
            f"ARP: {what}",
            Ether(src=p.b_mac, dst=p.host_mac) / asked,
            Ether(src=p.own_mac, dst=everybody) / asked,
            Ether(src=p.own_mac, dst=p.b_mac) / asked,
        )


def _odd6(p: Places) -> Iterator[Shape]:
    yield from _chains6(p)
    yield from _sources6(p)
    yield from _asked6(p)


def _chains6(p: Places) -> Iterator[Shape]:
    """Packets behind headers that few send."""
    make = Maker(p, 6)
    pad = PadN(optdata=bytes(4))
    hop, end = IPv6ExtHdrHopByHop(options=[pad]), IPv6ExtHdrDestOpt(options=[pad])

    def by(kind: int) -> Any:
        return IPv6ExtHdrRouting(type=kind, segleft=1, addresses=[p.b[6]])

    def asking(otype: int) -> Any:
        return IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=otype, optdata=bytes(2))])

    # Read as options of the destination, it is as long.
    signed = Raw(bytes((17, 4)) + bytes(22))
    chains = {
        "every header": (hop, end, IPv6ExtHdrRouting(type=0), IPv6ExtHdrFragment(id=80), end),
        "twenty destination options": (end,) * 20,
        "hop-by-hop options in the wrong place": (end, hop),
        "a routing header of mobility": (by(2),),
        "a routing header of RPL": (by(3),),
        "a routing header of segments": (by(4),),
        "a routing header that nobody knows": (by(253),),
        "a jumbo option": (IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]),),
        "an option that asks for an error": (asking(0x9E),),
        "an option that asks for an error, of one only": (asking(0xDE),),
        "an authentication header": (signed,),
    }
    for what, headers in chains.items():
        for where, source, target, port in (
            ("spoofed", p.b[6], p.remote[6], OPEN),
            ("to a port that policy denies", p.a[6], p.b[6], SHUT),
            ("to the host", p.a[6], p.host[6], OPEN),
        ):
            name = f"{where} with {what}"
            packet: Any = IPv6(src=source, dst=target)
            for header in headers:
                packet = packet / header.copy()
            tail: Any = UDP(sport=4000, dport=port) / make.load(name)
            if headers == (signed,):
                packet.nh = 51
                tail = Raw(bytes(UDP(sport=4000, dport=port, chksum=0xFFFF) / make.load(name)))
            yield make.shape(name, packet / tail)


def _sources6(p: Places) -> Iterator[Shape]:
    """Sources of prefixes with a meaning of their own."""
    make = Maker(p, 6)
    for what, source in {
        "IPv4-compatible": f"::{p.b[4]}",
        "ISATAP": f"fe80::5efe:{p.b[4]}",
        "site-local": "fec0::1",
        "Teredo": "2001:0:c000:201::1",
        "NAT64": f"64:ff9b::{p.b[4]}",
        "link-local of the host": "fe80::1",
        "documentation": "2001:db8::1",
        "discard": "100::1",
    }.items():
        for where, target in (("b", p.b[6]), ("remote", p.remote[6]), ("the host", p.host[6])):
            name = f"source of {what} to {where}"
            yield make.shape(name, make.udp(name, target, source))


def _asked6(p: Places) -> Iterator[Shape]:
    """What is for the link alone, sent beyond it; and questions that a host might answer."""
    make = Maker(p, 6)
    beyond = (("b", p.b[6]), ("remote", p.remote[6]))
    groups = (("all nodes", "ff02::1"), ("all routers of the site", "ff05::2"))
    near = {"neighbour": 135, "advertisement": 136, "router": 133}
    questions = {
        "listeners' query": 130,
        "renumbering": 138,
        "node information": 139,
        "inverse ND": 141,
        "certificate path": 148,
        "extended echo": 160,
        "multicast router": 151,
    }
    asked = [
        (kind, source, where)
        for kinds, sources, places in (
            (near, ("fe80::bad", "::", p.a[6]), beyond),
            (questions, ("fe80::bad", p.a[6]), (("the host", p.host[6]), *groups)),
        )
        for kind in kinds.items()
        for source in sources
        for where in places
    ]
    for (what, number), source, (where, target) in asked:
        name = f"ICMPv6 {what} from {source} to {where}"
        body = ICMPv6Unknown(type=number, code=0, msgbody=bytes(20) + marker(name, 6))
        group = target.startswith("ff")
        ether = Ether(src=p.own_mac, dst="33:33:00:00:00:01" if group else p.host_mac)
        yield make.shape(name, IPv6(src=source, dst=target, hlim=255) / body, ether=ether)
