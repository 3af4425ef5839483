"""Flows that come with a workload: which go, which are taken, and what the kernel makes of them."""

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from hopwall_dataplane.conntrack.carry import carried, taken
from hopwall_dataplane.conntrack.codec import creation_message, is_established
from hopwall_dataplane.conntrack.driver import ANY_ADDRESS, ConntrackDriver
from hopwall_dataplane.conntrack.flow import Flow
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


@pytest.mark.kernel
def test_an_entry_that_is_there_is_left_alone(host: Netns) -> None:
    """What a packet has made already is not replaced."""

    def run() -> tuple[int, bool]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((VM, 40000))
            one.connect((VM, 80))
            one.send(b"x")
        driver = ConntrackDriver()
        (given,) = taken([CarriedFlow(17, VM, VM, 40000, 80)], MINE, lambda _: False)
        failure = driver._writing.send([creation_message(given)])[0]
        (found,) = (f for flows, _ in driver.read(ANY_ADDRESS) for f in flows)
        driver.close()
        return failure.errno, is_established(found)

    assert host.python(run) == (errno.EEXIST, False)
