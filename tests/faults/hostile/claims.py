"""Shapes that claim something: who has an address, who leases them, who is a router, what the way is."""

from collections.abc import Iterator

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import (
    ICMP,
    IP,
    UDP,
)
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from tests.faults.hostile.maker import BAD_PREFIX, Maker, Places, Shape, marker


def neighbours4(p: Places) -> Iterator[Shape]:
    """Claims about who has an address, who leases them, and what the way is."""
    make = Maker(p, 4)
    everybody = "ff:ff:ff:ff:ff:ff"
    for who, address in (
        ("the neighbour", p.b[4]),
        ("the gateway", "169.254.1.1"),
        ("the host", p.host[4]),
        ("the remote machine", p.remote[4]),
    ):
        claim = {"hwsrc": p.own_mac, "psrc": address}
        yield make.shape(
            f"ARP: claim of {who}",
            Ether(src=p.own_mac, dst=everybody) / ARP(op=1, pdst=address, **claim),
            Ether(src=p.own_mac, dst=everybody) / ARP(op=2, pdst=address, hwdst=everybody, **claim),
            Ether(src=p.own_mac, dst=p.host_mac)
            / ARP(op=2, pdst=p.host[4], hwdst=p.host_mac, **claim),
            Ether(src=p.own_mac, dst=p.b_mac) / ARP(op=2, pdst=p.b[4], hwdst=p.b_mac, **claim),
        )
    for what, options in (("discover", "discover"), ("offer", "offer"), ("ack", "ack")):
        name = f"DHCP {what}"
        ports = UDP(sport=68, dport=67) if what == "discover" else UDP(sport=67, dport=68)
        body = BOOTP(op=1 if what == "discover" else 2, sname=marker(name, 4)) / DHCP(
            options=[("message-type", options), "end"]
        )
        source = "0.0.0.0" if what == "discover" else p.a[4]
        yield make.shape(
            name,
            Ether(src=p.own_mac, dst=everybody)
            / IP(src=source, dst="255.255.255.255")
            / ports
            / body,
        )
    for who, source in (("its own", p.a[4]), ("the gateway's", "169.254.1.1")):
        for where, target in (("the host", p.host[4]), ("b", p.b[4])):
            name = f"ICMP redirect to {where} from {who} address"
            inner = IP(src=target, dst=p.remote[4]) / UDP(sport=9, dport=9) / make.load(name)
            yield make.shape(
                name, IP(src=source, dst=target) / ICMP(type=5, code=1, gw=p.a[4]) / inner
            )
    yield make.shape(
        "IGMP report",
        IP(src=p.a[4], dst="224.0.0.22", proto=2, ttl=1)
        / Raw(b"\x22\0\0\0" + marker("IGMP report", 4)),
    )


def neighbours6(p: Places) -> Iterator[Shape]:
    """Claims about who has an address, who is a router, and what the way is."""
    make = Maker(p, 6)
    own = "fe80::bad"
    for who, address in (
        ("the neighbour", p.b[6]),
        ("the gateway", "fe80::1"),
        ("the host", p.host[6]),
        ("the remote machine", p.remote[6]),
    ):
        advert = ICMPv6ND_NA(tgt=address, R=1, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=p.own_mac)
        asks = ICMPv6ND_NS(tgt="fe80::1") / ICMPv6NDOptSrcLLAddr(lladdr=p.own_mac)
        yield make.shape(
            f"NA and NS: claim of {who}",
            *(
                IPv6(src=s, dst=d, hlim=255) / advert
                for s in (own, p.a[6], address)
                for d in ("ff02::1", "fe80::1")
            ),
            IPv6(src=address, dst="fe80::1", hlim=255) / asks,
        )
    for who, source in (
        ("its own link-local address", own),
        ("its address", p.a[6]),
        ("the gateway", "fe80::1"),
    ):
        advert = ICMPv6ND_RA(routerlifetime=9000) / ICMPv6NDOptPrefixInfo(
            prefix=BAD_PREFIX, prefixlen=64, L=1, A=1
        )
        lladdr = ICMPv6NDOptSrcLLAddr(lladdr=p.own_mac)
        yield make.shape(
            f"RA from {who}",
            *(
                IPv6(src=source, dst=d, hlim=255) / advert / lladdr
                for d in ("ff02::1", "fe80::1", p.host[6], p.b[6])
            ),
        )
        name = f"redirect from {who}"
        redirect = ICMPv6ND_Redirect(tgt=own, dst=p.remote[6])
        yield make.shape(
            name,
            *(IPv6(src=source, dst=d, hlim=255) / redirect for d in ("fe80::1", p.host[6], p.b[6])),
        )
    name = "DHCPv6 advertise"
    yield make.shape(
        name,
        IPv6(src=own, dst="ff02::1")
        / UDP(sport=547, dport=546)
        / DHCP6_Advertise()
        / make.load(name),
    )
    yield make.shape(
        "MLD report",
        IPv6(src=own, dst="ff02::16", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / ICMPv6MLReport2(),
    )
