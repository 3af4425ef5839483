"""What a hostile workload sends: one value per shape.

Workload a is the hostile one; b and a machine beyond the host are its victims, and the host itself. All would
pass the policy in force if they were genuine and plain: UDP to port 7000. So what stops a shape is that it is
neither.
"""

from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_LSRR,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_Timestamp,
)
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import GRE, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.faults.hostile.claims import neighbours4, neighbours6
from tests.faults.hostile.errors import errors
from tests.faults.hostile.exotic import exotic
from tests.faults.hostile.maker import OPEN, SHUT, Maker, Places, Shape, marker


def shapes(p: Places, *, only_usual: bool = False) -> list[Shape]:
    """Build all shapes of both families, or all but those at the far ends of the standards."""
    if only_usual:
        return [*_v4(p), *_v6(p)]
    return [*_v4(p), *exotic(p, 4), *_v6(p), *exotic(p, 6)]


def _v4(p: Places) -> Iterator[Shape]:
    yield from _sources(p, 4)
    yield from _to_host(p, 4)
    yield from _tunnels(p, 4)
    yield from _frames(p, 4)
    yield from _fragments4(p)
    yield from _options4(p)
    yield from neighbours4(p)
    yield from _transport(p, 4)
    yield from errors(p, 4)


def _v6(p: Places) -> Iterator[Shape]:
    yield from _sources(p, 6)
    yield from _to_host(p, 6)
    yield from _tunnels(p, 6)
    yield from _frames(p, 6)
    yield from _extensions6(p)
    yield from neighbours6(p)
    yield from _transport(p, 6)
    yield from errors(p, 6)


def _sources(p: Places, family: int) -> Iterator[Shape]:
    """Sources that are not the sender's."""
    make = Maker(p, family)
    yield make.shape("genuine to b", make.udp("genuine to b", p.b[family]), passes=("b",))
    yield make.shape(
        "genuine to remote", make.udp("genuine to remote", p.remote[family]), passes=("remote",)
    )
    name = "genuine with another's MAC"
    yield make.shape(
        name, make.udp(name, p.b[family]), passes=("b",), ether=Ether(src=p.b_mac, dst=p.host_mac)
    )
    name = "genuine, port that policy denies"
    yield make.shape(name, make.udp(name, p.b[family], port=SHUT))
    strange = {
        4: {"loopback": "127.0.0.1", "nobody": "0.0.0.0", "broadcast": "255.255.255.255", "multicast": "224.0.0.1",
            "gateway": "169.254.1.1", "free address of the pool": "10.65.0.99", "class E": "240.0.0.1"},
        6: {"loopback": "::1", "nobody": "::", "multicast": "ff02::1", "gateway": "fe80::1", "link-local": "fe80::bad",
            "free address of the pool": "fd65::99", "mapped": f"::ffff:{p.b[4]}", "6to4": "2002:c000:201::1"},
    }[family]  # fmt: skip
    known = {"neighbour": p.b[family], "remote": p.remote[family], "host": p.host[family]}
    for who, source in (known | strange).items():
        for where, target in (("b", p.b[family]), ("remote", p.remote[family])):
            if source == target:
                continue
            name = f"source of {who} to {where}"
            yield make.shape(name, make.udp(name, target, source))
    name = "source and MAC of the neighbour"
    ether = Ether(src=p.b_mac, dst=p.host_mac)
    yield make.shape(name, make.udp(name, p.remote[family], p.b[family]), ether=ether)


def _to_host(p: Places, family: int) -> Iterator[Shape]:
    """The host's own services."""
    make = Maker(p, family)
    targets = {
        4: {"address": p.host[4], "gateway": "169.254.1.1", "loopback": "127.0.0.1", "all of 127/8": "127.9.9.9",
            "broadcast": "255.255.255.255", "its net's broadcast": "192.0.2.255", "all hosts": "224.0.0.1",
            "mDNS": "224.0.0.251", "nobody": "0.0.0.0"},
        6: {"address": p.host[6], "gateway": "fe80::1", "loopback": "::1", "all nodes": "ff02::1",
            "all routers": "ff02::2", "mDNS": "ff02::fb", "mapped": f"::ffff:{p.host[4]}"},
    }[family]  # fmt: skip
    for what, target in targets.items():
        group = target.startswith(("224", "255", "ff", "192.0.2.255"))
        ether = Ether(src=p.own_mac, dst="ff:ff:ff:ff:ff:ff" if group else p.host_mac)
        name = f"to the host's {what}"
        yield make.shape(name, make.udp(name, target), ether=ether)
        name = f"echo to the host's {what}"
        echo = ICMP() if family == 4 else ICMPv6EchoRequest(data=marker(name, family))
        tail = echo / make.load(name) if family == 4 else echo
        yield make.shape(name, make.ip(src=p.a[family], dst=target) / tail, ether=ether)
        if not group:
            name = f"SYN to the host's {what}"
            syns = [TCP(sport=4001, dport=port, flags="S") for port in (22, 80)]
            yield make.shape(name, *(make.ip(src=p.a[family], dst=target) / one for one in syns))
    name = "spoofed to the host's address"
    yield make.shape(name, make.udp(name, p.host[family], p.b[family]))


def _tunnels(p: Places, family: int) -> Iterator[Shape]:
    """Packets within packets."""
    make = Maker(p, family)
    for where, target in (
        ("b", p.b[family]),
        ("remote", p.remote[family]),
        ("the host", p.host[family]),
    ):
        for what in ("GRE", "IPIP", "6in4", "VXLAN", "GRE with Ethernet"):
            name = f"{what} to {where}"
            inner = make.udp(name, p.b[family], p.remote[family])
            other = IPv6 if family == 4 else IP
            crossed = (
                other(src=p.remote[10 - family], dst=p.b[10 - family])
                / UDP(dport=OPEN)
                / make.load(name)
            )
            head = make.ip(src=p.a[family], dst=target)
            packet = {
                "GRE": head / GRE() / inner,
                "IPIP": head / inner,
                "6in4": head / crossed,
                "VXLAN": head
                / UDP(sport=4000, dport=4789)
                / VXLAN(vni=1)
                / Ether(dst=p.b_mac)
                / inner,
                "GRE with Ethernet": head / GRE(proto=0x6558) / Ether(dst=p.b_mac) / inner,
            }[what]
            yield make.shape(name, packet)


def _frames(p: Places, family: int) -> Iterator[Shape]:
    """What surrounds the packet."""
    make = Maker(p, family)
    for what in (
        "VLAN 0",
        "VLAN 1",
        "VLAN 0 within VLAN 0",
        "802.1ad",
        "LLC and SNAP",
        "MAC of b",
        "broadcast MAC",
        "wrong type",
    ):
        name = f"spoofed, {what}"
        inner = make.udp(name, p.remote[family], p.b[family])
        kind = 0x0800 if family == 4 else 0x86DD
        head: Any = Ether(src=p.own_mac, dst=p.host_mac)
        frame = {
            "VLAN 0": head / Dot1Q(vlan=0, type=kind) / inner,
            "VLAN 1": head / Dot1Q(vlan=1, type=kind) / inner,
            "VLAN 0 within VLAN 0": head / Dot1Q(vlan=0) / Dot1Q(vlan=0, type=kind) / inner,
            "802.1ad": head / Dot1AD(vlan=0, type=kind) / inner,
            "LLC and SNAP": Dot3(src=p.own_mac, dst=p.host_mac) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=kind) / inner,
            "MAC of b": Ether(src=p.own_mac, dst=p.b_mac) / inner,
            "broadcast MAC": Ether(src=p.own_mac, dst="ff:ff:ff:ff:ff:ff") / inner,
            "wrong type": Ether(src=p.own_mac, dst=p.host_mac, type=0x86DD if family == 4 else 0x0800) / Raw(bytes(inner)),
        }[what]  # fmt: skip
        yield make.shape(name, frame)


def _fragments4(p: Places) -> Iterator[Shape]:
    """Pieces that do not show what they are."""
    make = Maker(p, 4)

    def pieces(name: str, source: str, cuts: tuple[tuple[int, bytes], ...], ident: int) -> Shape:
        parts = [
            IP(
                src=source,
                dst=p.b[4],
                id=ident,
                proto=17,
                frag=at // 8,
                flags=0 if i == len(cuts) - 1 else 1,
            )
            / Raw(data)
            for i, (at, data) in enumerate(cuts)
        ]
        return make.shape(name, *parts)

    for i, (name, source, port) in enumerate(
        (
            ("tiny fragments, port that policy denies", p.a[4], SHUT),
            ("tiny fragments, spoofed", p.remote[4], OPEN),
        )
    ):
        whole = bytes(
            UDP(sport=4000, dport=port, chksum=0, len=8 + 64) / Raw(marker(name, 4).ljust(64))
        )
        cuts = tuple((at, whole[at : at + 8]) for at in range(0, len(whole), 8))
        yield pieces(name, source, cuts, 100 + i)
    name = "overlapping fragments, the later with a port that policy denies"
    body = marker(name, 4).ljust(80)
    good = bytes(UDP(sport=4000, dport=OPEN, chksum=0, len=88) / Raw(body))
    bad = bytes(UDP(sport=4000, dport=SHUT, chksum=0, len=88) / Raw(body))
    yield pieces(name, p.a[4], ((0, good[:40]), (0, bad[:40]), (40, good[40:])), 110)
    name = "a later fragment alone"
    yield pieces(name, p.a[4], ((0, b""), (64, marker(name, 4).ljust(64))), 111)
    name = "fragments in reverse, spoofed"
    whole = bytes(UDP(sport=4000, dport=OPEN, chksum=0, len=72) / Raw(marker(name, 4).ljust(64)))
    yield pieces(name, p.remote[4], ((40, whole[40:]), (0, whole[:40])), 112)


def _options4(p: Places) -> Iterator[Shape]:
    """IP options, with which a sender once could choose the way."""
    make = Maker(p, 4)
    for what, option in (
        ("loose source route by the host", IPOption_LSRR(routers=[p.b[4]])),
        ("record route", IPOption_RR(routers=["0.0.0.0"] * 3)),
        ("timestamp", IPOption_Timestamp()),
        ("router alert", IPOption_Router_Alert()),
    ):
        name = f"spoofed with {what}"
        yield make.shape(
            name,
            IP(src=p.b[4], dst=p.remote[4], options=[option]) / UDP(dport=OPEN) / make.load(name),
        )
        name = f"to the host with {what}"
        yield make.shape(
            name,
            IP(src=p.a[4], dst=p.host[4], options=[option]) / UDP(dport=OPEN) / make.load(name),
        )


def _extensions6(p: Places) -> Iterator[Shape]:
    """Extension headers and fragments."""
    make = Maker(p, 6)
    for what, header in (
        ("hop-by-hop options", IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])),
        ("router alert", IPv6ExtHdrHopByHop(options=[RouterAlert(value=0)])),
        ("destination options", IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])),
        ("routing header 0", IPv6ExtHdrRouting(type=0, addresses=[p.b[6]])),
        ("an atomic fragment header", IPv6ExtHdrFragment(id=7)),
    ):
        for where, source, target, port in (
            ("spoofed", p.b[6], p.remote[6], OPEN),
            ("to a port that policy denies", p.a[6], p.b[6], SHUT),
            ("to the host", p.a[6], p.host[6], OPEN),
        ):
            name = f"{where} with {what}"
            yield make.shape(
                name,
                IPv6(src=source, dst=target)
                / header
                / UDP(sport=4000, dport=port)
                / make.load(name),
            )
    name = "overlapping fragments"
    body = marker(name, 6).ljust(80)
    good, bad = (
        bytes(UDP(sport=4000, dport=port, len=88, chksum=1) / Raw(body)) for port in (OPEN, SHUT)
    )
    head = IPv6(src=p.a[6], dst=p.b[6])
    yield make.shape(
        name,
        head / IPv6ExtHdrFragment(id=9, offset=0, m=1, nh=17) / Raw(good[:40]),
        head / IPv6ExtHdrFragment(id=9, offset=0, m=1, nh=17) / Raw(bad[:40]),
        head / IPv6ExtHdrFragment(id=9, offset=5, m=0, nh=17) / Raw(good[40:]),
    )
    name = "no next header"
    yield make.shape(name, IPv6(src=p.a[6], dst=p.b[6], nh=59) / make.load(name))


def _transport(p: Places, family: int) -> Iterator[Shape]:
    """Transport headers that no connection has, and protocols nobody asked for."""
    make = Maker(p, family)
    for what, flags in (
        ("no flags", ""),
        ("all flags", "FSRPAU"),
        ("SYN and FIN", "SF"),
        ("a stray ACK", "A"),
        ("a stray RST", "R"),
    ):
        for where, source, target in (
            ("b", p.a[family], p.b[family]),
            ("remote, spoofed", p.b[family], p.remote[family]),
        ):
            name = f"TCP with {what} to {where}"
            if what == "a stray ACK" and where == "b":
                continue  # conntrack takes up what it sees amid a connection; policy judges it as new
            yield make.shape(
                name,
                make.ip(src=source, dst=target)
                / TCP(sport=4002, dport=80, flags=flags)
                / make.load(name),
            )
    for number in (2, 33, 51, 50, 89, 112, 132, 136, 255):
        name = f"protocol {number} to b"
        head = (
            IP(src=p.a[4], dst=p.b[4], proto=number)
            if family == 4
            else IPv6(src=p.a[6], dst=p.b[6], nh=number)
        )
        yield make.shape(name, head / Raw(b"\0" * 16 + marker(name, family)))
