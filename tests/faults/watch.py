"""Watch a cloud while it is harmed: writers with their history, changes, and every packet against the model."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hopwall_cli.lab.lab import NATS_LISTEN
from hopwall_runtime import clock
from tests.faults.cloud import Changes, Cloud, NotRecovered
from tests.faults.legal import Legal
from tests.faults.rig import Load, add, judged, shown_by
from tests.faults.streams import PERIOD_S, Prober
from tests.faults.table import Result, Trial
from tests.support.netns import entered

#: How long every packet is looked at before and after.
_CALM_S = 0.5
#: In the short form: other tests want the machine, too.
_BRIEF_PERIOD_S = 0.02


@dataclass
class Watch:
    """What a harm is given beside its trial."""

    cloud: Cloud
    changes: Changes
    legal: Legal
    result: Result
    patience_s: float

    async def recovered(self, since: float | None = None) -> None:
        """Wait until a change that begins now is enforced everywhere, and note how long it took."""
        took = await self.changes.recovered(since or clock.monotonic(), self.patience_s)
        self.result.recovery.append(took)


Harm = Callable[[Watch, Trial], Awaitable[None]]


def on_a_cloud(
    harm: Harm, *, keeps_writes: bool = True, patience_s: float = 180.0, **options: Any
) -> Callable[[Trial], Awaitable[Result]]:
    """Return how a mode is run whose harm is done to a watched cloud: its own, or the one that the trial brings.

    A store that is exchanged does not keep what was acknowledged by the other: then nobody writes beside the changes.
    """

    async def run(trial: Trial) -> Result:
        result = Result()
        async with AsyncExitStack() as stack:
            cloud = trial.cloud
            if cloud is None:
                cloud = await stack.enter_async_context(Cloud(**options))
            await _harmed(cloud, harm, trial, result, keeps_writes, patience_s)
            if (kept := os.environ.get("HOPWALL_FAULT_LOGS")) and not result.clean:
                shutil.copytree(cloud.folder.path / "log", kept, dirs_exist_ok=True)
        return result

    return run


async def _harmed(
    cloud: Cloud, harm: Harm, trial: Trial, result: Result, keeps_writes: bool, patience_s: float
) -> None:
    legal = Legal(cloud.state)
    changes = Changes(cloud, legal, trial.chance)
    load = Load(cloud.folder.api_socket, n_writers=2 if keeps_writes else 0, pause_s=0.05)
    period_s = _BRIEF_PERIOD_S if trial.brief else PERIOD_S
    with Prober(cloud.streams(legal), period_s) as prober:
        await asyncio.sleep(_CALM_S)
        try:
            async with load.running(), changes.running():
                await harm(Watch(cloud, changes, legal, result, patience_s), trial)
                await changes.recovered(clock.monotonic(), patience_s)
        except* NotRecovered as group:
            result.faults.append(_innermost(group))
            result.tries = max(result.tries, 1)
        await asyncio.sleep(_CALM_S)
        await asyncio.to_thread(prober.settle)
        _count(prober, legal, result)
    cloud.state = changes.state
    result.faults += changes.faults + cloud.ended_by_themselves()
    result.changes += changes.n_settled
    if keeps_writes and not result.faults:
        with entered(cloud.namespace("fabric")):
            shown = await shown_by(cloud.folder.api_socket)
            add(result, await judged(load, [f"nats://{NATS_LISTEN}"], shown))


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _count(prober: Prober, legal: Legal, result: Result) -> None:
    wrong = prober.wrong()
    result.probes += prober.n_judged
    for (name, came), moments in sorted(wrong.items()):
        result.opened += len(moments) if came else 0
        result.closed += 0 if came else len(moments)
        word = "came" if came else "did not come"
        first = (
            f"the first {legal.when(moments[0])}, the last {moments[-1] - moments[0]:.3f} s later"
        )
        result.wrong.append(f"{name}: {len(moments)} {word}; {first}")


@asynccontextmanager
async def swapped_store(cloud: Cloud, other: Path) -> AsyncIterator[None]:
    """Have another store in the server's place while the block runs, and then the one that was there."""
    store = cloud.folder.path / "nats" / "store"
    aside = store.with_name("aside")
    await cloud.take_away("nats")
    store.rename(aside)
    other.rename(store)
    cloud.bring_back("nats")
    try:
        yield
    finally:
        await cloud.take_away("nats")
        store.rename(other)
        aside.rename(store)
        cloud.bring_back("nats")
