"""Rendered rules against real packets: the kernel must say what the rules say, on both backends and families."""

import re
import socket
import struct
from dataclasses import replace

import pytest

from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.ipsets.elements import AddElements, CreateSet, SetOp, SetSpec
from hopwall_dataplane.iptables.plan import plan_table
from hopwall_dataplane.iptables.render_policy import render_policy
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import Jump, TableState
from hopwall_dataplane.iptables.transaction import Applied
from hopwall_dataplane.marks import layout
from hopwall_dataplane.members import member_element
from hopwall_dataplane.outcome import Done, Family, Outcome
from hopwall_model.names import set_name
from hopwall_model.updates import (
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetId,
    SetKind,
    Verdict,
)
from tests.dataplane.iptables.conftest import RealKernel
from tests.support.packets import Packet, rule_matches

pytestmark = pytest.mark.kernel

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
NETS, ONE, HTTP, NONE = SetId("s:nets"), SetId("n:one"), SetId("np:http"), SetId("s:none")
SETS: dict[SetId, frozenset[str]] = {
    NETS: frozenset({"10.0.0.0/8", "10.0.0.0/24", "fd00::/64"}),
    ONE: frozenset({"10.0.0.1/32"}),
    HTTP: frozenset(
        f"{address},{protocol}:{port}"
        for address in ("10.0.0.2", "fd00::2")
        for protocol, port in ((6, 8080), (17, 8080), (132, 80), (136, 80))
    ),
    NONE: frozenset(),
}
KNOWN: dict[SetId, SetKind] = {NETS: "net", ONE: "net", HTTP: "port", NONE: "net"}

MANY = tuple(PortRange(n, n) for n in range(1000, 1100, 2))


def rule(action: Verdict, **fields: object) -> ResolvedRule:
    """Return a rule that lets packets go on, so that all rules see each."""
    return ResolvedRule(id="x", action=action, **fields)  # type: ignore[arg-type]


def rules() -> list[ResolvedRule]:
    """List every match there is, positive and negative."""
    numbers = (0, 1, 6, 43, 44, 50, 51, 58, 59, 60, 255)
    sides = [
        Entity(sets=(NETS,)),
        Entity(sets=(ONE,), not_sets=(NONE,)),
        Entity(sets=(NONE,)),
        Entity(net="10.0.0.0/8", not_net="10.0.0.2/32"),
        Entity(net="fd00::/64", not_net="fd00::2/128"),
        Entity(net="0.0.0.0/0"),
        Entity(not_net="::/0"),
        Entity(port_sets=(HTTP,)),
        Entity(not_port_sets=(HTTP,)),
    ]
    ports = [
        Entity(ports=MANY, port_sets=(HTTP,)),
        Entity(not_ports=(PortRange(0, 79), PortRange(81, 65535))),
        Entity(not_ports=tuple(PortRange(n, n) for n in range(8080, 9080, 2))),
    ]
    codes = [(8, None), (8, 0), (3, 4), (254, 255)]
    return [
        *(rule("log", protocol=number) for number in numbers),
        *(rule("log", not_protocol=number) for number in numbers),
        *(rule("pass", protocol=number) for number in numbers),
        *(rule("pass", not_protocol=number) for number in numbers),
        rule("pass", protocol=6, not_protocol=60),
        rule("pass", protocol=0, not_protocol=6),
        *(rule("pass", protocol=p, icmp_type=t, icmp_code=c) for p in (1, 58) for t, c in codes),
        *(
            rule("pass", protocol=p, not_icmp_type=t, not_icmp_code=c)
            for p in (1, 58)
            for t, c in codes
        ),
        rule("pass", protocol=1, icmp_type=3, not_icmp_type=3, not_icmp_code=4),
        *(rule("pass", source=side) for side in sides),
        *(rule("pass", destination=side) for side in sides),
        *(rule("pass", protocol=6, source=side) for side in ports),
        *(rule("log", protocol=17, destination=side) for side in ports),
        rule("pass", protocol=6, source=Entity(ports=MANY), destination=ports[0]),
        rule("log", protocol=132, source=Entity(ports=MANY), destination=ports[0]),
    ]


def sent(family: Family) -> list[Packet]:
    """List packets that tell the rules apart."""
    one, two = ("10.0.0.1", "10.0.0.2") if family is Family.V4 else ("fd00::1", "fd00::2")
    icmp = 1 if family is Family.V4 else 58
    plain = [
        Packet(one, two, protocol, source_port, destination_port)
        for protocol in (6, 17, 132, 136)
        for source_port, destination_port in ((1000, 80), (1001, 8080), (1002, 1098))
    ]
    plain += [Packet(two, two, 6, 8080, 80)]
    plain += [Packet(one, two, icmp, icmp=kind) for kind in ((8, 0), (8, 1), (3, 4), (254, 255))]
    plain += [Packet(one, two, protocol) for protocol in (50, 255)]
    if family is Family.V4:
        return plain + [Packet(one, two, protocol) for protocol in (0, 43, 51, 60)]
    carried = [frozenset({0}), frozenset({43}), frozenset({51}), frozenset({0, 60})]
    return [*plain, Packet(one, two, 59), *(Packet(one, two, extensions=e) for e in carried)]


def send(packet: Packet) -> None:
    """Send a packet over the loopback as it is, header and all."""
    if packet.protocol in (1, 58):
        payload = struct.pack("!BB6x", *packet.icmp)
    else:
        payload = struct.pack("!HH28x", packet.source_port, packet.destination_port)
    source, destination = packet.source, packet.destination
    if packet.family is Family.V4:
        size = 20 + len(payload)
        addresses = socket.inet_aton(source) + socket.inet_aton(destination)
        head = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0, 64, packet.protocol, 0) + addresses
        af = socket.AF_INET
    else:
        af = socket.AF_INET6
        following = packet.protocol
        for number in sorted(packet.extensions, reverse=True):
            # Padding alone for options; an unused type for routing; AH counts words of four, less two.
            data = {43: b"\0\xfd\0\0\0\0\0", 51: b"\1" + bytes(10)}.get(number, b"\0\1\4\0\0\0\0")
            payload = bytes([following]) + data + payload
            following = number
        pair = (socket.inet_pton(af, address) for address in (source, destination))
        head = struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + b"".join(pair)
    with socket.socket(af, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(head + payload, (destination, 0))


def seen(packet: Packet, kind: str) -> Packet:
    """Return the packet as rules see it: nft takes AH for the last header, legacy what is behind it."""
    return replace(packet, protocol=51) if 51 in packet.extensions and kind == "nft" else packet


def make_sets(family: Family) -> list[Outcome]:
    """Make one family's half of each set."""
    ops: list[SetOp] = []
    for set_id, members in SETS.items():
        kind = KNOWN[set_id]
        name = set_name(family.value, set_id, kind)
        spec = SetSpec(name, "hash:net" if kind == "net" else "hash:ip,port", family)
        elements = [member_element(kind, member) for member in sorted(members)]
        own = [e for e in elements if (":" in e.cidr) == (family is Family.V6)]
        ops += [CreateSet(spec), AddElements(spec, dict.fromkeys(own))]
    driver = IpsetDriver()
    outcomes = driver.apply(ops)
    driver.close()
    return outcomes


def matched(real: RealKernel) -> dict[str, int]:
    """Count, for each chain, the packets that its rule has matched so far."""
    counts: dict[str, int] = {}
    for line in real.save("filter", "-c").splitlines():
        found = re.match(r"\[(\d+):\d+\] -A (hw-r\d+) .*-j (?:RETURN|NFLOG)", line)
        if found:
            counts[found[2]] = counts.get(found[2], 0) + int(found[1])
    return counts


async def test_the_kernel_matches_what_the_rules_say(real: RealKernel) -> None:
    """Every match, positive and negative, on packets of every kind."""
    family = real.restore.family
    assert set(real.ns.python(make_sets, family)) == {Done()}
    for address in ("10.0.0.2/32", "fd00::2/128"):
        real.ns.run(["ip", "address", "add", address, "dev", "lo"])
    clear = f"-j MARK --set-xmark 0x0/{SETTINGS.marks.passed:#x}"
    chains: dict[str, tuple[str, ...]] = {}
    root: list[str] = []
    made = rules()
    for i, one in enumerate(made):
        policy = PolicySet(id=PolicyId("gnp/p"), version=1, ingress=(one,))
        chains[f"hw-r{i}"] = render_policy(policy, "ingress", family, SETTINGS, KNOWN)
        root += [f"-j hw-r{i}", clear]
    chains["hw-root"] = (*root, "-j DROP")
    tx = plan_table("filter", chains, (Jump("INPUT", "hw-root"),), TableState()).now
    assert tx is not None
    assert await real.restore.apply(tx) == Applied()
    wrong = []
    before = matched(real)
    for packet in sent(family):
        real.ns.python(send, packet)
        after = matched(real)
        for i, one in enumerate(made):
            n = after.get(f"hw-r{i}", 0) - before.get(f"hw-r{i}", 0)
            if n != rule_matches(one, seen(packet, real.restore.backend.kind), SETS):
                wrong.append((n, one, packet))
        before = after
    assert wrong == []
