"""The link monitor against a real kernel, in a namespace of its own, on both kinds of loop."""

import asyncio
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from hopwall_dataplane.links.codec import Link
from hopwall_dataplane.links.monitor import LinkMonitor
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

Links = dict[str, Link]


@pytest.fixture
def ns() -> Iterator[Netns]:
    """An empty host."""
    with Netns("links") as made:
        yield made


class _Seen:
    """What the monitor delivered, and a way to wait for it."""

    def __init__(self) -> None:
        self.deliveries: list[Links] = []
        self._changed = asyncio.Event()

    def __call__(self, links: Links) -> None:
        self.deliveries.append(links)
        self._changed.set()

    async def until(self, holds: Callable[[Links], bool]) -> Links:
        """Wait until the last delivery is as it should be."""
        async with asyncio.timeout(60):
            while not (self.deliveries and holds(self.deliveries[-1])):
                self._changed.clear()
                await self._changed.wait()
        return self.deliveries[-1]


def ip(*lines: str) -> None:
    """Run commands of ip(8)."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def run_on(factory: str, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story on a kind of loop."""
    make = uvloop.new_event_loop if factory == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(story())


async def life_of_a_link() -> None:
    """Follow a link from its making over its renaming to its return under the old name."""
    monitor, seen = LinkMonitor(), _Seen()
    assert list(monitor.links) == ["lo"]
    monitor.start(asyncio.get_running_loop(), seen)
    assert (await seen.until(lambda links: "lo" in links))["lo"].up
    ip("link add tap0 type veth peer name far0")
    made = (await seen.until(lambda links: "tap0" in links))["tap0"]
    assert (made.up, made.carrier) == (False, False)
    ip("link set tap0 up")
    await seen.until(lambda links: links["tap0"].up and not links["tap0"].carrier)
    ip("link set far0 up")
    await seen.until(lambda links: links["tap0"].carrier)
    ip("link set tap0 address 02:00:00:00:00:07")
    await seen.until(lambda links: links["tap0"].mac == "02:00:00:00:00:07")
    ip("addr add 192.0.2.1/24 dev tap0", "addr add fd00::1/64 dev tap0 nodad")
    own = {"192.0.2.1", "fd00::1"}
    await seen.until(lambda links: own <= links["tap0"].addresses)
    ip("addr del 192.0.2.1/24 dev tap0")
    await seen.until(lambda links: "192.0.2.1" not in links["tap0"].addresses)
    ip("link set tap0 down", "link set tap0 name vm0")
    renamed = await seen.until(lambda links: "vm0" in links)
    assert "tap0" not in renamed
    assert renamed["vm0"].index == made.index
    ip("link del vm0", "link add vm0 type veth peer name far0")
    again = await seen.until(lambda links: "vm0" in links and links["vm0"].index != made.index)
    assert again["vm0"].mac != "02:00:00:00:00:07"
    ip("link del vm0")
    await seen.until(lambda links: list(links) == ["lo"])
    monitor.close()
    monitor.close()


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
def test_every_turn_in_the_life_of_a_link_is_told(ns: Netns, factory: str) -> None:
    """Made, up, carrier, addresses, renamed, gone, returned with another index: each is delivered."""
    ns.python(run_on, factory, life_of_a_link)


async def overflow() -> None:
    """Let more events arrive than the buffer holds before the loop looks."""
    monitor, seen = LinkMonitor(receive_buffer_bytes=2048), _Seen()
    monitor.start(asyncio.get_running_loop(), seen)
    await seen.until(lambda links: "lo" in links)
    ip(*(f"link add tap{i} type veth peer name far{i}" for i in range(50)), "link del tap0")
    links = await seen.until(lambda links: "tap49" in links)
    assert len(links) == 99
    assert len(seen.deliveries) == 2
    ip("link del tap49")
    await seen.until(lambda links: "tap49" not in links)
    monitor.close()


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
def test_lost_events_are_made_good_by_reading_everything(ns: Netns, factory: str) -> None:
    """After an overflow the links are right again, in one delivery."""
    ns.python(run_on, factory, overflow)


async def burst() -> None:
    """Make many links while the loop does not look."""
    monitor, seen = LinkMonitor(), _Seen()
    monitor.start(asyncio.get_running_loop(), seen)
    await seen.until(lambda links: "lo" in links)
    ip(*(f"link add tap{i} type veth peer name far{i}" for i in range(200)))
    await seen.until(lambda links: len(links) == 401)
    assert len(seen.deliveries) == 2
    monitor.close()


def test_burst_of_events_is_one_delivery(ns: Netns) -> None:
    """What happened between two looks is told once."""
    ns.python(run_on, "uvloop", burst)


async def silence() -> None:
    """Close, then change links."""
    monitor, seen = LinkMonitor(), _Seen()
    monitor.start(asyncio.get_running_loop(), seen)
    monitor.close()
    ip("link add tap0 type veth peer name far0")
    for _ in range(3):
        await asyncio.sleep(0)
    assert seen.deliveries == []


def test_closed_monitor_is_silent(ns: Netns) -> None:
    """Nothing is delivered after close, not even what was already on its way."""
    ns.python(run_on, "uvloop", silence)
