"""Listening on real interfaces: what is heard, what the kernel keeps away, and what becomes of the sockets."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from hopwall_dataplane.moves import ears as module
from hopwall_dataplane.moves.ears import Ears
from hopwall_dataplane.moves.phases import Expected
from hopwall_model.updates import EndpointId
from tests.dataplane.moves.test_frames import MINE, OTHERS, SIGNS
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

VM = EndpointId("default/vm")


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host with one workload interface, tap1, whose other end is v1."""
    with Netns("ears") as ns:
        ns.run(["ip", "link", "add", "tap1", "type", "veth", "peer", "name", "v1"])
        for name in ("tap1", "v1"):
            ns.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
            ns.run(["ip", "link", "set", name, "up"])
        yield ns


def expected() -> dict[EndpointId, Expected]:
    """Return that the workload is to arrive on tap1."""
    return {VM: Expected("tap1", socket.if_nametoindex("tap1"), MINE)}


def send(interface: str, *frames: bytes) -> None:
    """Send frames out of an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as one:
        one.bind((interface, 0))
        for frame in frames:
            one.send(frame)


async def heard(n_s: float, *, out_of: str, frames: list[bytes]) -> list[EndpointId]:
    """Listen, send, and return what was heard within the time."""
    found: list[EndpointId] = []
    ears = Ears(found.append)
    ears.listen(expected())
    send(out_of, *frames)
    until = time.monotonic() + n_s
    while not found and time.monotonic() < until:
        await asyncio.sleep(0.01)
    ears.close()
    return found


@pytest.mark.parametrize("name", SIGNS)
def test_each_sign_is_heard(host: Netns, name: str) -> None:
    """Each kind of sign passes the filter in the kernel, and is told once however often it is sent."""

    def run() -> list[EndpointId]:
        return asyncio.run(heard(30.0, out_of="v1", frames=[SIGNS[name]] * 5))

    assert host.python(run) == [VM]


def test_other_frames_and_our_own_are_not_heard(host: Netns) -> None:
    """What is no sign is not told, nor what the host itself sends to the workload."""

    def run() -> list[EndpointId]:
        others = [frame for frame in OTHERS.values() if frame]
        found = asyncio.run(heard(0.5, out_of="v1", frames=others))
        return found + asyncio.run(heard(0.5, out_of="tap1", frames=list(SIGNS.values())))

    assert host.python(run) == []


def test_the_filter_keeps_ordinary_traffic_away(host: Netns) -> None:
    """Frames that cannot be a sign do not even reach the process."""

    def run() -> bool:
        opened = module._socket(expected()[VM])
        send("v1", OTHERS["a question for the gateway"], OTHERS["a neighbour solicitation"])
        send("v1", OTHERS["no ICMPv6"], OTHERS["another protocol"])
        time.sleep(0.2)
        try:
            opened.recv(64)
        except BlockingIOError:
            return True
        finally:
            opened.close()
        return False

    assert host.python(run)


def test_an_interface_that_goes_down_or_is_replaced_is_listened_to_again(host: Netns) -> None:
    """After each change of links the agent lists what it expects, and then the sign is heard."""

    def ip(line: str) -> None:
        subprocess.run(["ip", *line.split()], check=True)

    async def run() -> list[list[EndpointId]]:
        found: list[EndpointId] = []
        ears = Ears(found.append)
        heard = []
        for lines in (
            ("link set tap1 down", "link set tap1 up"),
            ("link del tap1", "link add tap1 type veth peer name v1", "link set tap1 up"),
        ):
            ears.listen(expected())
            for line in lines:
                ip(line)
                await asyncio.sleep(0.05)
            ip("link set v1 up")
            ears.listen(expected())
            send("v1", SIGNS["a reverse request"])
            async with asyncio.timeout(30):
                while not found:
                    await asyncio.sleep(0.01)
            heard.append(list(found))
            found.clear()
        ears.close()
        return heard

    assert host.python(lambda: asyncio.run(run())) == [[VM], [VM]]


def test_what_cannot_be_listened_to_is_named_and_tried_again(host: Netns) -> None:
    """An interface that is not there is a fault until it is, and nothing else suffers."""

    async def run() -> tuple[bool, bool]:
        ears = Ears(lambda _: None)
        ears.listen({VM: Expected("tap9", 9, MINE)})
        before = VM in ears.fault
        ears.listen(expected())
        after = VM in ears.fault
        ears.close()
        return before, after

    assert host.python(lambda: asyncio.run(run())) == (True, False)


def test_a_flood_does_not_hold_the_loop(host: Netns) -> None:
    """While a workload sends what passes the filter and is no sign, the loop goes on turning.

    By what a turn costs: how long it takes is also the other processes' doing.
    """

    async def run() -> float:
        ears = Ears(lambda _: None)
        ears.listen(expected())
        send("v1", *[OTHERS["a gratuitous ARP about another address"]] * 5000)
        longest, last = 0.0, time.thread_time()
        for _ in range(50):
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
        ears.close()
        return longest

    assert host.python(lambda: asyncio.run(run())) < 0.1
