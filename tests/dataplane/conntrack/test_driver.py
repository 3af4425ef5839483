"""The driver of tracked flows against a real kernel, in a namespace of its own."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from hopwall_dataplane.conntrack.codec import parse_flow
from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.flow import DeleteFlow, Flow, MarkFlow
from hopwall_dataplane.netlink.codec import attribute_table
from hopwall_dataplane.outcome import Done
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel
R = TypeVar("R")

BIT = 0x200
#: Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
CTA_ID = 12
HERE4, THERE4 = "10.65.0.24", "10.65.0.25"
HERE6, THERE6 = "fd65::24", "fd65::25"
WATCHED = {
    socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in (HERE4, HERE6)
}


@pytest.fixture
def ns() -> Iterator[Netns]:
    """Make a namespace that tracks flows, marks them 0xf0000001, and translates port 81 to 80."""
    with Netns("ct") as made:
        for address in (HERE4, THERE4):
            made.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
        for address in (HERE6, THERE6):
            made.run(["ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad"])
        for tool, there in (("iptables-nft", THERE4), ("ip6tables-nft", f"[{THERE6}]")):
            made.run(f"{tool} -t mangle -A OUTPUT -j CONNMARK --set-mark 0xf0000001".split())
            made.run(
                f"{tool} -t nat -A OUTPUT -p udp --dport 81 -j DNAT --to-destination {there}:80".split()
            )
        yield made


def talk() -> None:
    """Send a datagram to port 81 and an echo request, in both families."""
    for family, here, there in (
        (socket.AF_INET, HERE4, "192.0.2.1"),
        (socket.AF_INET6, HERE6, "fd99::1"),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.bind((here, 5000))
            end.sendto(b"x", (there, 81))
        v4 = family == socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, 1 if v4 else 58) as echo:
            echo.bind((here, 0))
            head = (
                b"\x08\x00\xf7\xfd\x00\x01\x00\x01" if v4 else b"\x80\x00\x00\x00\x00\x01\x00\x01"
            )
            echo.sendto(head, (THERE4 if v4 else THERE6, 0))


def read() -> list[Flow]:
    """Read the flows of this end with a new driver."""
    driver = ConntrackDriver()
    flows = [flow for part, _ in driver.read(WATCHED) for flow in part]
    driver.close()
    return sorted(flows, key=lambda flow: (flow.version, flow.protocol))


def inside(ns: Netns, call: Callable[[], R]) -> R:
    """Give the namespace ways out, talk, and call."""
    ns.run(["ip", "route", "add", "192.0.2.1/32", "dev", "lo"])
    ns.run(["ip", "-6", "route", "add", "fd99::1/128", "dev", "lo"])

    def both() -> R:
        talk()
        return call()

    return ns.python(both)


def test_a_flow_is_read_as_the_filter_table_met_it(ns: Netns) -> None:
    """The destination is the one after DNAT, echo requests have a type, and the mark is whole."""
    flows = inside(ns, read)
    seen = [(f.version, f.protocol, f.destination_port, f.icmp_type, f.mark) for f in flows]
    assert seen == [
        (4, 1, 0, 8, 0xF0000001),
        (4, 17, 80, None, 0xF0000001),
        (6, 17, 80, None, 0xF0000001),
        (6, 58, 0, 128, 0xF0000001),
    ]
    assert {socket.inet_ntop(socket.AF_INET, f.destination) for f in flows[:2]} == {THERE4}
    assert {f.source for f in flows} == WATCHED
    assert [parse_flow(flow.entry) for flow in flows] == flows  # at once, or attribute by attribute


def _marked() -> list[list[int]]:
    driver = ConntrackDriver()
    seen = []
    for revoked in (True, True, False):
        outcomes = driver.apply([MarkFlow(flow, revoked) for flow in read()], BIT)
        assert outcomes == [Done()] * 4
        seen.append([flow.mark for flow in read()])
    driver.close()
    return seen


def test_one_bit_is_set_and_cleared_and_the_others_stay(ns: Netns) -> None:
    """Twice is as good as once."""
    assert inside(ns, _marked) == [[0xF0000201] * 4, [0xF0000201] * 4, [0xF0000001] * 4]


def _ids(flows: list[Flow]) -> set[bytes]:
    return {attribute_table(flow.entry, 0, len(flow.entry))[CTA_ID] for flow in flows}


def _deleted() -> tuple[int, bool]:
    driver = ConntrackDriver()
    flows = read()
    outcomes = driver.apply([DeleteFlow(flow) for flow in flows], BIT)
    left = len(read())
    outcomes += driver.apply([DeleteFlow(flows[0]), MarkFlow(flows[1], revoked=True)], BIT)
    talk()  # the same keys again
    while _ids(flows) & _ids(read()):
        # The kernel makes an id of an entry's key and place; now and then it gives the next one the same place.
        driver.apply([DeleteFlow(flow) for flow in read()], BIT)
        talk()
    outcomes += driver.apply([DeleteFlow(flow) for flow in flows], BIT)
    driver.close()
    assert len(read()) == 4
    return left, all(outcome == Done() for outcome in outcomes)


def test_a_flow_is_deleted_once_and_never_a_later_one_in_its_place(ns: Netns) -> None:
    """What is gone is done with, and the id keeps the next flow of the same key safe."""
    assert inside(ns, _deleted) == (0, True)


def _own() -> list[bool]:
    driver = ConntrackDriver()
    own = driver.host_addresses()
    driver.close()
    asked = (HERE4, "127.9.9.9", "169.254.1.1", "10.65.0.99", HERE6, "::1", "fd65::99")
    return [
        socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) in own for a in asked
    ]


def test_the_hosts_own_addresses_are_what_it_takes_for_local(ns: Netns) -> None:
    """Also the gateway that is only a local route, and all of 127/8."""
    for line in ("ip route add local 169.254.1.1/32 dev lo table local proto 80",):
        ns.run(line.split())
    assert inside(ns, _own) == [True, True, True, False, True, True, False]


def _cleared() -> tuple[int, int, list[int]]:
    driver = ConntrackDriver()
    driver.apply([MarkFlow(flow, revoked=True) for flow in read()], BIT)
    counts = driver.clear(BIT), driver.clear(BIT)
    driver.close()
    return *counts, [flow.mark for flow in read()]


def test_all_of_ours_can_be_taken_off(ns: Netns) -> None:
    """The bit goes from every flow that carries it, and nothing else does."""
    assert inside(ns, _cleared) == (4, 0, [0xF0000001] * 4)


def _n_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def read_and_leave() -> tuple[int, int, int]:
    """Walk, leave walks half-way, and have two at once; return how many flows the last saw, and how many files are open."""
    driver = ConntrackDriver()
    try:
        sum(n for _, n in driver.read(WATCHED))
        before = _n_open()
        for _ in range(3):
            left = driver.read(WATCHED)
            next(left)
            left.close()
        first, second = driver.read(WATCHED), driver.read(WATCHED)
        next(first)
        sum(n for _, n in second)
        sum(n for _, n in first)
        n_seen = sum(n for _, n in driver.read(WATCHED))
        return n_seen, before, _n_open()
    finally:
        driver.close()


def test_a_walk_that_was_left_is_in_nobodys_way(ns: Netns) -> None:
    """The next one sees everything, by the same number of open sockets."""
    n_seen, before, after = inside(ns, read_and_leave)
    assert n_seen >= 4
    assert after == before
