"""Three servers: the leader killed, frozen, cut off from the others; two of three, and all, killed."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hopwall_cli.nats_server import NatsServer
from hopwall_model import topics
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.faults.rig import Load, LoopDisk, add, api_of, api_ready, judged, pause, shown_by
from tests.faults.table import BROKER_ALONE, Mode, Result, Trial
from tests.support.brokers import cluster_of
from tests.support.netns import Netns, entered


@dataclass
class Cloud:
    """Three servers in namespaces of their own, and the namespace in which everything else runs."""

    hub: Netns
    places: list[Netns]
    servers: list[NatsServer]
    disks: list[LoopDisk]

    @property
    def urls(self) -> list[str]:
        """Where the servers are."""
        return [server.url for server in self.servers]


@contextmanager
def _namespaces(n: int) -> Iterator[tuple[Netns, list[Netns]]]:
    with ExitStack() as stack:
        hub = stack.enter_context(Netns("hub"))
        hub.run(["ip", "link", "add", "br0", "address", "02:00:00:00:42:fe", "type", "bridge"])
        hub.run(["ip", "address", "add", "10.66.0.254/24", "dev", "br0"])
        hub.run(["ip", "link", "set", "br0", "up"])
        places = [stack.enter_context(Netns(f"n{i}")) for i in range(n)]
        for i, place in enumerate(places):
            hub.run(
                ["ip", "link", "add", f"v{i}", "type", "veth", "peer", "e0", "netns", place.name]
            )
            hub.run(["ip", "link", "set", f"v{i}", "master", "br0", "up"])
            place.run(["ip", "address", "add", f"10.66.0.{i + 1}/24", "dev", "e0"])
            place.run(["ip", "link", "set", "e0", "up"])
        yield hub, places


@asynccontextmanager
async def _cloud(folder: Path, *, on_disks: bool) -> AsyncIterator[tuple[Cloud, Path]]:
    """Run three servers, each on a disk of its own if wanted, and an API that knows them all."""
    with ExitStack() as stack:
        disks = []
        for i in range(3 if on_disks else 0):
            disks.append(LoopDisk(folder / f"disk{i}", folder / f"n{i}"))
            stack.callback(disks[-1].close)
        hub, places = stack.enter_context(_namespaces(3))
        stack.enter_context(entered(hub.name))
        addresses = [f"10.66.0.{i + 1}" for i in range(3)]
        servers = cluster_of(folder, addresses, [place.command([]) for place in places])
        cloud = Cloud(hub, places, servers, disks)
        api, socket = api_of(folder, cloud.urls)
        try:
            await asyncio.gather(*(server.start() for server in servers))
            api.start()
            await api_ready(socket)
            yield cloud, socket
        finally:
            if api.runs:
                api.kill()
            await asyncio.gather(*(server.stop() for server in servers))


async def _leader(urls: Sequence[str]) -> int:
    """Return which server leads the events stream."""
    link = Link("looks")
    await link.connect(CommonSettings(nats_url=tuple(urls)))
    try:
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(Exception):
                    info = await link._js.stream_info(topics.EVENTS_STREAM)
                    if info.cluster and info.cluster.leader:
                        return int(info.cluster.leader.removeprefix("n"))
                await asyncio.sleep(0.2)
    finally:
        await link.close()


#: What is done to the servers; the number is the leader's. It tells how many it has killed.
Harm = Callable[[Cloud, int, Trial], Awaitable[int]]


async def _harmed(trial: Trial, harm: Harm, *, on_disks: bool) -> Result:
    result = Result()
    async with _cloud(trial.folder, on_disks=on_disks) as (cloud, socket):
        load = Load(socket)
        async with load.running():
            while trial.goes_on():
                await asyncio.sleep(pause(trial.chance, 0.3, 1.5))
                leader = await _leader(cloud.urls)
                since = clock.monotonic()
                result.kills += await harm(cloud, leader, trial)
                result.recovery.append(await load.recovered(since))
                result.tries += 1
        await api_ready(socket)
        add(result, await judged(load, cloud.urls, await shown_by(socket)))
        result.note = f"longest stall {_longest_stall(load):.1f} s"
    return result


def _longest_stall(load: Load) -> float:
    """Return the longest time without an acknowledgement."""
    times = sorted(write.ended for write in load.writes if write.outcome == "acked")
    return max((b - a for a, b in pairwise(times)), default=0.0)


async def _kill(cloud: Cloud, victims: Sequence[int], down_s: float) -> int:
    await asyncio.gather(*(cloud.servers[i].stop(signal.SIGKILL) for i in victims))
    await asyncio.sleep(down_s)
    await asyncio.gather(*(cloud.servers[i].start() for i in victims))
    return len(victims)


async def _kill_leader(cloud: Cloud, leader: int, trial: Trial) -> int:
    return await _kill(cloud, [leader], pause(trial.chance, 0.0, 2.0))


async def _kill_two(cloud: Cloud, leader: int, trial: Trial) -> int:
    return await _kill(cloud, [leader, (leader + 1) % 3], pause(trial.chance, 0.0, 2.0))


async def _kill_all(cloud: Cloud, _leader: int, trial: Trial) -> int:
    return await _kill(cloud, range(3), pause(trial.chance, 0.0, 1.0))


async def _freeze_leader(cloud: Cloud, leader: int, trial: Trial) -> int:
    cloud.servers[leader].send(signal.SIGSTOP)
    await asyncio.sleep(pause(trial.chance, 1.0, 12.0))
    cloud.servers[leader].send(signal.SIGCONT)
    return 0


async def _cut_leader(cloud: Cloud, leader: int, trial: Trial) -> int:
    """Cut the leader off from the two others; clients reach all three."""
    place = cloud.places[leader]
    for other in {0, 1, 2} - {leader}:
        for chain, side in (("INPUT", "-s"), ("OUTPUT", "-d")):
            place.run(["iptables", "-A", chain, side, f"10.66.0.{other + 1}", "-j", "DROP"])
    await asyncio.sleep(6.0 if trial.brief else pause(trial.chance, 8.0, 20.0))
    place.run(["iptables", "-F"])
    return 0


async def _power_cut(cloud: Cloud, _leader: int, _trial: Trial) -> int:
    """Cut the power of all three at once: each disk keeps only what was synced by then."""
    for server in cloud.servers:
        server.send(signal.SIGSTOP)
    for disk in cloud.disks:
        disk.keep_as_it_is()
    await asyncio.gather(*(server.stop(signal.SIGKILL) for server in cloud.servers))
    for disk in cloud.disks:
        disk.come_back()
    await asyncio.gather(*(server.start() for server in cloud.servers))
    return 0


def _mode(
    name: str, what: str, harm: Harm, covers: tuple[str, ...], *, on_disks: bool = False
) -> Mode:
    async def run(trial: Trial) -> Result:
        return await _harmed(trial, harm, on_disks=on_disks)

    here = "tests/faults/modes_cluster.py"
    return Mode(f"three servers: {name}", what, run, covers, BROKER_ALONE, where=here)


MODES = (
    _mode("leader killed", "kill -9, back within 2 s", _kill_leader, ("B1", "P1")),
    _mode("two killed", "no quorum for up to 2 s", _kill_two, ("B1", "P1")),
    _mode("all killed", "kill -9 of all at once", _kill_all, ("B1", "P1")),
    _mode("leader frozen", "SIGSTOP for 1 to 12 s", _freeze_leader, ("B1", "P3")),
    _mode("leader cut off", "for 8 to 20 s; clients reach it", _cut_leader, ("B2",)),
    _mode("power cut", "of all three at once", _power_cut, ("B7",), on_disks=True),
)
