"""A storm of updates: what is coalesced, who waits, what is kept in memory, and whether the last word is enforced."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hopwall_cli.kinds import kind_named
from hopwall_cli.lab.lab import NATS_LISTEN
from hopwall_model import topics
from hopwall_model.updates import SharedUpdate
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link
from tests.faults.cloud import Cloud, Json, document, lets_in
from tests.faults.gauges import rss_mib
from tests.faults.table import Mode, Trial
from tests.faults.watch import Watch, on_a_cloud
from tests.support.netns import entered

N_WRITERS = 8
#: What one writer writes at once.
N_AT_ONCE = 25
N_SETS = N_WRITERS * N_AT_ONCE
N_UPDATES = 10_000
_PORT = 7300
#: Until the last word of a storm is enforced, and a change of others meanwhile.
MOST_S = 10.0
_MOST_GROWTH_MIB = 128.0
_HERE = "tests/faults/modes_storm.py"
_SETS, _POLICIES = kind_named("globalnetworkset"), kind_named("globalnetworkpolicy")


@dataclass
class Heard:
    """What calc published of what the storm changes, and how large processes were meanwhile."""

    n_pieces: int = 0
    before: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def on_shared(self, update: SharedUpdate, _: str) -> None:
        """Count a piece that calc published."""
        self.n_pieces += 1

    def look(self, cloud: Cloud) -> None:
        """Note how large processes are."""
        for name, child in cloud.services.items():
            if name.startswith(("api", "calc", "dataplane")):
                size = rss_mib(child.pid)
                self.before.setdefault(name, size)
                self.largest[name] = max(size, self.largest.get(name, 0.0))

    @property
    def grown(self) -> tuple[str, float]:
        """Who grew most, and by how many MiB."""
        grown = {name: size - self.before[name] for name, size in self.largest.items()}
        return max(grown.items(), key=lambda one: one[1])


@asynccontextmanager
async def _heard(cloud: Cloud) -> AsyncIterator[Heard]:
    """Listen and look while the block runs."""
    heard, link = Heard(), Link("storm")
    with entered(cloud.namespace("fabric")):
        await link.connect(CommonSettings(nats_url=(f"nats://{NATS_LISTEN}",)))
    await link.subscribe(topics.SHARED, topics.SHARED.pattern, heard.on_shared)
    looking = asyncio.get_running_loop().create_task(_look_on(cloud, heard))
    try:
        yield heard
    finally:
        looking.cancel()
        await link.close()


async def _look_on(cloud: Cloud, heard: Heard) -> None:
    while True:
        heard.look(cloud)
        await asyncio.sleep(0.1)


def _net(number: int, turn: int) -> str:
    return f"198.18.{number}.{turn % 250}/32"


def _items(writer: int, turn: int) -> list[Json]:
    first = writer * N_AT_ONCE
    return [
        document(
            "GlobalNetworkSet",
            f"storm-{number}",
            {"nets": [_net(number, turn)]},
            labels={"role": "storm"},
        )
        for number in range(first, first + N_AT_ONCE)
    ]


async def _write(cloud: Cloud, writer: int, turns: Sequence[int]) -> None:
    for turn in turns:
        await cloud.client.apply(_items(writer, turn))


async def storm(watch: Watch, trial: Trial) -> None:
    """Change the members of one set ten thousand times, as fast as the API takes it, beside all else that changes."""
    cloud = watch.cloud
    n_turns = (1_000 if trial.brief else N_UPDATES) // N_SETS
    policy = lets_in("storm", _PORT, "role == 'storm'")
    # Of whom nothing else changes: where rules and members of one list change at once, it is closed for that moment.
    policy["spec"]["selector"] = "customer == 'y'"
    async with watch.changes.standing_still():
        await cloud.client.apply([policy], wait="programmed")
    said: list[str] = []
    try:
        while trial.goes_on():
            first = watch.result.tries * n_turns
            said.append(await _one_storm(watch, range(first, first + n_turns)))
            watch.result.tries += 1
            await watch.recovered()
    finally:
        async with watch.changes.standing_still():
            await cloud.client.delete(_POLICIES, namespace="", name="storm", wait="programmed")
        for number in range(N_SETS):
            await cloud.client.delete(_SETS, namespace="", name=f"storm-{number}")
    watch.result.note = said[-1]


async def _one_storm(watch: Watch, turns: Sequence[int]) -> str:
    cloud, n_updates = watch.cloud, len(turns) * N_SETS
    slowest = [0.0]
    async with _heard(cloud) as heard:
        begun = clock.monotonic()
        others = asyncio.get_running_loop().create_task(_others(watch, slowest))
        try:
            await asyncio.gather(*(_write(cloud, writer, turns) for writer in range(N_WRITERS)))
            written = clock.monotonic()
            await _enforced(cloud, {_net(number, turns[-1]) for number in range(N_SETS)})
            enforced_s = clock.monotonic() - written
        finally:
            others.cancel()
    who, grown = heard.grown
    bounds = (
        (f"the last word of a storm was enforced after {enforced_s:.1f} s", enforced_s > MOST_S),
        (f"a change of others took {slowest[0]:.1f} s meanwhile", slowest[0] > MOST_S),
        (f"{who} grew by {grown:.0f} MiB", grown > _MOST_GROWTH_MIB),
        (f"calc published {heard.n_pieces} pieces of {n_updates}", heard.n_pieces > n_updates),
    )
    watch.result.faults += [words for words, is_so in bounds if is_so]
    return (
        f"{n_updates:,} updates in {written - begun:.1f} s became {heard.n_pieces:,} messages; the last word"
        f" enforced {enforced_s:.2f} s later; other changes meanwhile took {slowest[0]:.2f} s at most; {who} grew"
        f" most, by {grown:.0f} MiB"
    )


async def _others(watch: Watch, slowest: list[float]) -> None:
    """Note how long a change takes that has nothing to do with it."""
    while True:
        since = clock.monotonic()
        slowest[0] = max(slowest[0], await watch.changes.recovered(since, watch.patience_s))


async def _enforced(cloud: Cloud, nets: set[str]) -> None:
    """Wait until every host's kernel has these addresses of the storm, and no others."""
    wanted = {net.removesuffix("/32") for net in nets}
    async with asyncio.timeout(60.0):
        for host in cloud.hosts:
            while await _in_sets(cloud, host) != wanted:
                await asyncio.sleep(0.02)


async def _in_sets(cloud: Cloud, host: str) -> set[str]:
    saved = await cloud.run(host, ["ipset", "save"])
    return set(re.findall(r" (198\.18\.\d+\.\d+)", saved))


MODES = (
    Mode("storm of updates", f"{N_UPDATES:,} of the members of one set, as fast as the API takes them", on_a_cloud(storm), ("C3",), where=_HERE, takes_s=30.0),
)  # fmt: skip
