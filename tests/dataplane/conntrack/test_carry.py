"""Flows that come with a workload: which go, which are taken, and what the kernel makes of them."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from hopwall_dataplane.conntrack.carry import carried, taken
from hopwall_dataplane.conntrack.codec import is_established, is_picked_up
from hopwall_dataplane.conntrack.driver import ANY_ADDRESS, ConntrackDriver
from hopwall_dataplane.conntrack.flow import Flow, MarkFlow, is_plain
from hopwall_model.flows import CarriedFlow
from tests.support.netns import Netns

VM, FAR = "10.65.0.5", "192.0.2.9"
MINE = {ip_address(VM).packed, ip_address("fd65::5").packed}


def flow(protocol: int = 6, **more: object) -> Flow:
    """Return a flow from the workload to somebody far."""
    source, destination = ip_address(VM).packed, ip_address(FAR).packed
    fields: dict[str, object] = {
        "version": 4,
        "protocol": protocol,
        "source": source,
        "destination": destination,
        "source_port": 40000,
        "destination_port": 80,
        "icmp_type": None,
        "icmp_code": None,
        "mark": 0,
        "ends": (source, destination, destination, source),
        "entry": b"",
    }
    return Flow(**(fields | more))  # type: ignore[arg-type]


TRAVELS = CarriedFlow(6, VM, FAR, 40000, 80)


def test_an_established_flow_travels_as_it_began() -> None:
    """Its first direction, addresses and ports are told, and made the same flow again."""
    assert carried(flow(), established=True, revoked=False) == TRAVELS
    assert taken([TRAVELS], MINE, lambda _: False) == [flow()]


@pytest.mark.parametrize(
    ("one", "established", "revoked"),
    [
        (flow(), False, False),
        (flow(), True, True),
        (flow(1), True, False),
        (flow(asked=(ip_address("192.0.2.1").packed, 80)), True, False),
        (flow(ends=(ip_address("192.0.2.1").packed,) * 4), True, False),
    ],
)
def test_what_stays_behind(one: Flow, established: bool, revoked: bool) -> None:
    """Flows that open or close, that policy has ended, without ports, and translated ones are not carried."""
    assert carried(one, established=established, revoked=revoked) is None


@pytest.mark.parametrize(
    "one",
    [
        CarriedFlow(6, "10.65.0.6", FAR, 40000, 80),
        CarriedFlow(1, VM, FAR, 40000, 80),
        CarriedFlow(6, VM, FAR, 0, 80),
        CarriedFlow(6, VM, FAR, 40000, 65536),
        CarriedFlow(6, VM, "fd65::9", 40000, 80),
        CarriedFlow(6, VM, "224.0.0.1", 40000, 80),
        CarriedFlow(17, VM, "nonsense", 40000, 80),
    ],
)
def test_what_another_host_says_is_not_believed_blindly(one: CarriedFlow) -> None:
    """Flows of other addresses, of other protocols, or that make no sense are not taken."""
    assert taken([one], MINE, lambda _: False) == []


def test_only_what_policy_would_let_begin_is_taken() -> None:
    """A flow that this host's policy denies now does not come in by having been open elsewhere."""
    back = CarriedFlow(6, FAR, VM, 40001, 22)
    denied = [ip_address(FAR).packed]
    found = taken([TRAVELS, back], MINE, lambda f: f.source in denied)
    assert found == [flow()]


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a namespace that tracks connections."""
    with Netns("carry") as ns:
        ns.run(["ip", "addr", "add", f"{VM}/32", "dev", "lo"])
        ns.run(["iptables", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"])
        yield ns


@pytest.mark.kernel
@pytest.mark.parametrize(("version", "protocol"), [(4, 6), (4, 17), (6, 6), (6, 17)])
def test_the_kernel_takes_a_carried_flow_for_established(
    host: Netns, version: int, protocol: int
) -> None:
    """It stands both ways, is found established again (it may move on), and making it twice is harmless."""

    def run() -> tuple[int, int, list[bool]]:
        a, b = (VM, FAR) if version == 4 else ("fd65::5", "fd00::9")
        (one,) = taken([CarriedFlow(protocol, a, b, 40000, 80)], MINE, lambda _: False)
        driver = ConntrackDriver()
        first, second = driver.create([one]), driver.create([one])
        found = [f for flows, _ in driver.read(ANY_ADDRESS) for f in flows]
        same = [is_established(f) and f[:9] == one[:9] and f.ends == one.ends for f in found]
        driver.close()
        return first, second, same

    assert host.python(run) == (1, 1, [True])


def segment(source: int, destination: int) -> bytes:
    """Return a TCP header from the middle of a connection; nobody on its way asks for its checksum."""
    return struct.pack("!HHIIBBHHH", source, destination, 1000, 2000, 0x50, 0x10, 64, 0, 0)


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("first", ["the workload", "the other end"])
def test_what_a_packet_has_made_becomes_what_was_seen_elsewhere(
    host: Netns, protocol: int, first: str
) -> None:
    """A packet from the middle makes an entry that waits for an answer, also in the wrong direction: no more."""
    host.run(["ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1"])
    for name in ("d0", "d1"):
        host.run(["ip", "link", "set", name, "up"])
    host.run(["ip", "addr", "add", f"{FAR}/32", "dev", "lo"])
    ends = ((VM, 40000), (FAR, 80))
    sender, receiver = ends if first == "the workload" else reversed(ends)
    # Out by an interface where nobody answers.
    host.run(["ip", "rule", "add", "pref", "0", "to", receiver[0], "lookup", "100"])
    host.run(["ip", "rule", "add", "pref", "1", "lookup", "local"])
    host.run(["ip", "rule", "del", "pref", "0", "lookup", "local"])
    host.run(["ip", "route", "add", receiver[0], "dev", "d0", "table", "100"])
    host.run(["ip", "neigh", "add", receiver[0], "lladdr", "02:00:00:00:00:09", "dev", "d0"])

    def run() -> tuple[list[bool], int, list[tuple[bytes, bool]]]:
        body = segment(sender[1], receiver[1])
        if protocol == 17:
            body = struct.pack("!HHHH", sender[1], receiver[1], 8, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as wire:
            wire.bind((sender[0], 0))
            wire.sendto(body, (receiver[0], 0))
        driver = ConntrackDriver()
        (given,) = taken([CarriedFlow(protocol, VM, FAR, 40000, 80)], MINE, lambda _: False)
        before = [is_picked_up(f) for flows, _ in driver.read(ANY_ADDRESS) for f in flows]
        n_there = driver.create([given])
        found = [f for flows, _ in driver.read(ANY_ADDRESS) for f in flows]
        driver.close()
        return before, n_there, [(f.source, is_established(f)) for f in found]

    assert host.python(run) == ([True], 1, [(ip_address(VM).packed, True)])


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", [6, 17])
def test_stragglers_passed_on_and_answered_leave_no_flow_the_wrong_way_round(
    host: Netns, protocol: int
) -> None:
    """What policy says of the other direction, also what it said already, does not end a flow that came along."""

    def run() -> list[tuple[bytes, bool, int]]:
        there, back = (
            CarriedFlow(protocol, VM, FAR, 40000, 80),
            CarriedFlow(protocol, FAR, VM, 80, 40000),
        )
        given, reverse = taken([there, back], MINE, lambda _: False)
        driver = ConntrackDriver()
        driver.create([reverse])
        made = [f for flows, _ in driver.read(ANY_ADDRESS) for f in flows]
        assert [is_picked_up(f) for f in made] == [False]
        driver.apply([MarkFlow(f, revoked=True) for f in made], 0x200)
        assert driver.create([given]) == 1
        found = [f for flows, _ in driver.read(ANY_ADDRESS) for f in flows]
        driver.close()
        return [(f.source, is_established(f), f.mark) for f in found]

    assert host.python(run) == [(ip_address(VM).packed, True, 0)]


@pytest.mark.kernel
def test_an_entry_that_is_translated_is_left_alone(host: Netns) -> None:
    """What this host translates is not what was seen elsewhere."""
    host.run(["ip", "addr", "add", f"{FAR}/32", "dev", "lo"])
    nat = ["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "--dport", "80", "-j", "REDIRECT"]
    host.run([*nat, "--to-ports", "81"])

    def run() -> tuple[int, list[bool]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((VM, 40000))
            one.sendto(b"x", (FAR, 80))
        driver = ConntrackDriver()
        (given,) = taken([CarriedFlow(17, VM, FAR, 40000, 80)], MINE, lambda _: False)
        n_there = driver.create([given])
        found = [is_plain(f) for flows, _ in driver.read(ANY_ADDRESS) for f in flows]
        driver.close()
        return n_there, found

    assert host.python(run) == (1, [False])
