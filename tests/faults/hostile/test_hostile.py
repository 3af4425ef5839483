"""What a hostile workload sends comes nowhere, and what it takes up is bounded."""

import contextlib
import re
import socket
import struct

import pytest
from msgspec import structs
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Jumbo,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hopwall_dataplane import abilities
from hopwall_model.updates import EndpointSet
from tests.faults.hostile.__main__ import results
from tests.faults.hostile.maker import FLOW, OPEN, Maker
from tests.faults.hostile.rig import Rig, heard, mac, open_raw, state
from tests.support.site import HOST, REMOTE, WORKLOAD, Site, seen_by

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_no_hostile_shape_comes_anywhere_and_genuine_ones_do(backend: str) -> None:
    """Spoofed, hidden, malformed, claiming: of over a hundred shapes a family nothing arrives or is believed."""
    found = results(backend)
    assert [f"v{r.shape.family} {r.shape.name}: {r.fault}" for r in found if r.fault] == []
    assert min(sum(r.shape.family == family for r in found) for family in (4, 6)) >= 100


def test_the_ears_hear_what_nobody_stops() -> None:
    """Without our rules most shapes come through: that they do not is our doing, and it would be seen."""
    came = [r for r in results("nft", bare=True) if r.fault]
    assert len(came) >= 120
    kinds = {r.shape.name.split(",")[0].split(" ")[0] for r in came}
    assert kinds >= {
        "source",
        "spoofed",
        "to",
        "echo",
        "SYN",
        "GRE",
        "VXLAN",
        "TCP",
        "DHCP",
        "protocol",
    }


def _flood(family: int, n: int) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    for port in range(20000, 20000 + n):
        with socket.socket(kind, socket.SOCK_DGRAM) as one:
            one.bind((WORKLOAD["a"][family], port))
            one.sendto(b"x", (REMOTE[family], OPEN))


def _connected(family: int, patience_s: float) -> bool:
    return bool(seen_by(REMOTE[family], 80, patience_s))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_workload_has_as_many_flows_as_it_may_and_others_are_not_its_matter(backend: str) -> None:
    """With `max_flows`, a flood of new flows ends at the limit, and the neighbour goes on."""
    with Site(backend, max_flows=100) as site:
        assert not site.apply(*state())
        a, b = site.workloads["a"], site.workloads["b"]
        for family in (4, 6):
            a.python(_flood, family, 400)
            count = site.host.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])
            # The limit of this family, and of the other one before it, and what neighbours ask.
            assert 100 <= int(count) <= 100 * (1 if family == 4 else 2) + 20
            assert not a.python(_connected, family, 1.0)
            assert b.python(_connected, family, 20.0)


def _frames(site: Site, n: int) -> list[bytes]:
    """Return the first packets of as many flows of a with the remote machine, as frames."""
    macs = mac(site.host, "tapa") + mac(site.workloads["a"], "v0")
    head = bytes.fromhex(macs.replace(":", "")) + b"\x08\0"
    ends = {"src": WORKLOAD["a"][4], "dst": REMOTE[4]}
    ip = bytes(IP(**ends, len=28, proto=17))
    ports = ((1024 + i % 60000, OPEN) for i in range(n))
    return [head + ip + struct.pack("!HHHH", *pair, 8, 0) for pair in ports]


def _answer() -> None:
    """Answer the first of these flows, which makes it an established one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((REMOTE[4], OPEN))
        one.sendto(b"yes", (WORKLOAD["a"][4], 1024))


def _tracked(site: Site) -> int:
    return int(site.host.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]))


def _matched(site: Site, target: str) -> int:
    """Count the packets that the line of the flow limit with this target has matched."""
    text = site.host.run([f"iptables-{site.backend}-save", "-c", "-t", "filter"])
    found = re.findall(rf"^\[(\d+):\d+\] -A hw-flow-limit .*-j {target}", text, re.MULTILINE)
    return sum(map(int, found))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_flood_of_flows_ends_at_the_limit_and_appears_in_the_log(backend: str) -> None:
    """Others' new flows pass, the flooder's old ones go on, and what he is denied is counted and logged."""
    limit = 1000
    with Site(backend, max_flows=limit) as site:
        assert not site.apply(*state())
        a, b = site.workloads["a"], site.workloads["b"]
        assert a.python(_connected, 4, 20.0)
        frames = _frames(site, limit + 2000)
        with contextlib.closing(open_raw(a, "v0")) as mouth:
            mouth.send(frames[0])
            site.remote.python(_answer)
            for frame in frames:
                mouth.send(frame)
        assert limit <= _tracked(site) <= limit + 50
        assert not a.python(_connected, 4, 1.0)
        assert b.python(_connected, 4, 20.0)
        assert a.python(_connected, 6, 20.0)
        assert 1900 <= _matched(site, "DROP") <= 2100
        assert 20 <= _matched(site, "NFLOG") <= 400
        with (
            contextlib.closing(open_raw(a, "v0")) as mouth,
            contextlib.closing(open_raw(site.remote, "r0")) as ear,
        ):
            mouth.send(frames[0])
            assert heard(ear, frames[0][26:])


def _hello(family: int, other: str) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_DGRAM) as one:
        one.bind((WORKLOAD["b"][family], FLOW))
        one.sendto(b"hello", (other, OPEN))


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_only_who_may_send_for_others_reports_on_packets_to_another_address(backend: str) -> None:
    """A router of workloads behind it, known by the prefixes it may send from, says what became of their packets."""
    inner = {4: "10.65.0.12", 6: "fd65::12"}
    policy, a, *others = state()
    assert isinstance(a, EndpointSet)
    both = structs.replace(a, addresses=(*a.addresses, "10.65.0.12/32", "fd65::12/128"))
    router = structs.replace(both, extra_sources=("10.65.0.10/32", "fd65::10/128"))
    with Site(backend) as site, contextlib.closing(Rig(site)) as rig:
        for address in both.addresses[2:]:
            site.workloads["a"].run(["ip", "addr", "add", address, "dev", "v0"])
        for endpoint, came in ((both, []), (router, ["b"])):
            assert not site.apply(policy, endpoint, *others)
            for family, other in inner.items():
                site.workloads["b"].python(_hello, family, other)
                make = Maker(rig.places, family)
                name = f"report of {len(endpoint.extra_sources)}"
                quote = make.ip(src=WORKLOAD["b"][family], dst=other) / UDP(sport=FLOW, dport=OPEN)
                kind = ICMP(type=11) if family == 4 else ICMPv6TimeExceeded()
                head = make.ip(src=WORKLOAD["a"][family], dst=WORKLOAD["b"][family])
                shape = make.shape(name, head / kind / quote / make.load(name), passes=tuple(came))
                assert rig.send(shape) == ""


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_without_xt_bpf_all_other_lines_stand_and_it_appears_in_the_status(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `xt_bpf` is not there, errors about others pass, the status says it, and nothing else is worse."""

    async def missing(*_: object) -> str:
        return "no such match"

    monkeypatch.setattr(abilities, "why_no_bpf", missing)
    with Site(backend) as site:
        (said,) = site.apply(*state())
        assert said.startswith("kernel without xt_bpf: ")
        assert said.endswith("no such match")
        assert "bpf" not in site.tables()
        with contextlib.closing(Rig(site)) as rig:
            faults = {f"v{r.shape.family} {r.shape.name}" for r in rig.run("error") if r.fault}
    assert "v4 error about a flow of others, fragmentation needed" in faults
    assert "v6 error about a flow of others, packet too big" in faults
    assert not [name for name in faults if "genuine" in name]


def _early(site: Site) -> list[bytes]:
    """Return packets that the kernel answers before any line is met, in the name of b and of the remote machine."""
    ether = Ether(src=mac(site.workloads["a"], "v0"), dst=mac(site.host, "tapa"))
    found = []
    for source, target in ((WORKLOAD["b"], REMOTE), (REMOTE, WORKLOAD["b"]), (WORKLOAD["b"], HOST)):
        tail = UDP(sport=FLOW, dport=OPEN) / Raw(b"early".ljust(80))
        head = IPv6(src=source[6], dst=target[6])
        for otype in (0x9E, 0xDE):
            unknown = HBHOptUnknown(otype=otype, optdata=bytes(2))
            found.append(ether / head / IPv6ExtHdrHopByHop(options=[unknown]) / tail)
        found.append(ether / head / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / tail)
        found.append(ether / head / IPv6ExtHdrFragment(id=len(found), m=1) / tail)
        ends = {"src": source[4], "dst": target[4], "id": len(found)}
        found.append(ether / IP(**ends, flags="MF") / tail)
    return [bytes(one) for one in found]


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_the_host_tells_nobody_of_a_packet_that_no_line_has_judged(backend: str) -> None:
    """Else who writes a foreign source has the host send its owner errors about his flows; other errors are sent."""
    with Site(backend) as site, contextlib.ExitStack() as stack:
        assert not site.apply(*state())
        # Lines of the host's rules alone are asked about: here the route of a source is no hindrance.
        site.host.sysctl("net/ipv4/conf/tapa/rp_filter", "0")
        for name in (
            "ipv4/ipfrag_time",
            "ipv6/ip6frag_time",
            "netfilter/nf_conntrack_frag6_timeout",
        ):
            site.host.sysctl(f"net/{name}", "1")
        a = site.workloads["a"]
        mouth, *ears = (
            stack.enter_context(contextlib.closing(open_raw(ns, name)))
            for ns, name in ((a, "v0"), (site.workloads["b"], "v0"), (site.remote, "r0"))
        )
        for frame in _early(site):
            mouth.send(frame)
        assert not any(heard(ear, b"early") for ear in ears)
        ether = Ether(src=mac(a, "v0"), dst=mac(site.host, "tapa"))
        for head in (
            IP(src=WORKLOAD["a"][4], dst=REMOTE[4], ttl=1),
            IPv6(src=WORKLOAD["a"][6], dst=REMOTE[6], hlim=1),
        ):
            mouth.send(bytes(ether / head / UDP(sport=FLOW, dport=OPEN) / Raw(b"at its end")))
            assert heard(mouth, b"at its end")
