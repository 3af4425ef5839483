"""The kernel's table of neighbours is one for all: a workload names as many senders as it likes, and fills none of it."""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Iterator

import pytest
from msgspec import structs
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hopwall_model.updates import EndpointId, EndpointSet, Move
from tests.faults.hostile.rig import heard, mac, open_raw, state
from tests.support.netns import Netns
from tests.support.site import REMOTE, WORKLOAD, Site, seen_by

pytestmark = pytest.mark.kernel

N_SENDERS = 3000
#: What the host and its workloads have of each other.
FEW = 8


def neighbours(ns: Netns, family: int) -> int:
    """Count the host's entries on the hostile workload's interface, in whatever state."""
    argv = ["ip", f"-{family}", "neigh", "show", "dev", "tapa", "nud", "all"]
    return len(ns.run(argv).splitlines())


def asked_by_arp(own: str, target: str, first: str) -> Iterator[bytes]:
    """Yield requests for an address, each from another sender."""
    everybody = Ether(src=own, dst="ff:ff:ff:ff:ff:ff")
    for n in range(N_SENDERS):
        sender = str(ipaddress.ip_address(first) + n)
        yield bytes(everybody / ARP(op=1, hwsrc=own, psrc=sender, pdst=target))


def asked_by_nd(own: str, host: str, kind: type, first: str) -> Iterator[bytes]:
    """Yield solicitations to the host, each from another link-local address."""
    options = {"tgt": "fe80::1"} if kind is ICMPv6ND_NS else {}
    body = kind(**options) / ICMPv6NDOptSrcLLAddr(lladdr=own)
    for n in range(N_SENDERS):
        sender = str(ipaddress.ip_address(first) + n)
        ends = IPv6(src=sender, dst="fe80::1", hlim=255)
        yield bytes(Ether(src=own, dst=host) / ends / body)


@contextlib.contextmanager
def mouth(site: Site) -> Iterator[socket.socket]:
    """Open what sends frames as the hostile workload."""
    with contextlib.closing(open_raw(site.workloads["a"], "v0")) as one:
        yield one


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_requests_by_arp_from_thousands_of_senders_leave_no_entry(backend: str) -> None:
    """Nor for the gateway, nor for others; what the workload itself asks is answered, and it has its connections."""
    with Site(backend) as site, mouth(site) as sends:
        assert not site.apply(*state())
        a = site.workloads["a"]
        own = mac(a, "v0")
        for target, first in (("169.254.1.1", "10.77.0.0"), (REMOTE[4], "10.78.0.0")):
            for frame in asked_by_arp(own, target, first):
                sends.send(frame)
        assert neighbours(site.host, 4) <= FEW
        for name, ns in site.workloads.items():
            ns.run(["ip", "neigh", "flush", "dev", "v0"])
            assert ns.python(seen_by, REMOTE[4], 80, 2.0) == WORKLOAD[name][4]


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_solicitations_from_thousands_of_senders_are_let_by_as_there_is_room(backend: str) -> None:
    """While they come, others find their gateway and connect; most of the table is free."""
    with Site(backend) as site, mouth(site) as sends:
        assert not site.apply(*state())
        a, b = site.workloads["a"], site.workloads["b"]
        own, host = mac(a, "v0"), mac(site.host, "tapa")
        begun = time.monotonic()
        for kind, first in ((ICMPv6ND_NS, "fe80::1:0"), (ICMPv6ND_RS, "fe80::2:0")):
            for frame in asked_by_nd(own, host, kind, first):
                sends.send(frame)
            b.run(["ip", "-6", "neigh", "flush", "dev", "v0"])
            assert b.python(seen_by, REMOTE[6], 80, 5.0) == WORKLOAD["b"][6]
        took = time.monotonic() - begun
        # Two kinds, each with a burst of twice its rate of 51.
        assert neighbours(site.host, 6) <= FEW + 2 * 51 * (2 + took)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_who_sends_for_others_or_is_yet_to_arrive_is_not_checked_by_routes(backend: str) -> None:
    """What is sent from extra prefixes passes, and who arrives is answered before its route stands."""
    policy, a, *others = state()
    assert isinstance(a, EndpointSet)
    router = structs.replace(a, extra_sources=("10.99.0.0/24",))
    move = Move(
        role="target",
        migration="ns/m/1",
        peer=EndpointId("d/elsewhere"),
        host="h2",
        addresses=a.addresses,
    )
    name = "net/ipv4/conf/tapa/rp_filter"

    def checked(site: Site, endpoint: EndpointSet) -> str:
        assert not site.apply(policy, endpoint, *others)
        return site.host.run(["cat", f"/proc/sys/{name}"]).strip()

    with Site(backend) as site:
        assert checked(site, a) == "1"
        assert checked(site, router) == "0"
        ns = site.workloads["a"]
        ns.run(["ip", "addr", "add", "10.99.0.7/32", "dev", "v0"])
        site.remote.run(["ip", "route", "add", "10.99.0.0/24", "via", "192.0.2.1"])
        with contextlib.closing(open_raw(site.remote, "r0")) as ear:
            ns.python(_from, "10.99.0.7")
            assert heard(ear, b"from a prefix")
        assert checked(site, a) == "1"
        assert checked(site, structs.replace(a, move=move)) == "0"
        ns.run(["ip", "neigh", "flush", "dev", "v0"])
        with contextlib.closing(open_raw(ns, "v0")) as ear:
            ear.send(
                bytes(
                    Ether(src=mac(ns, "v0"), dst="ff:ff:ff:ff:ff:ff")
                    / ARP(hwsrc=mac(ns, "v0"), psrc=WORKLOAD["a"][4], pdst="169.254.1.1")
                )
            )
            assert heard(ear, bytes.fromhex(mac(site.host, "tapa").replace(":", "")))
        assert checked(site, a) == "1"


def _from(source: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((source, 0))
        one.sendto(b"from a prefix", (REMOTE[4], 7000))
