"""Clocks that jump: the wall clock of each service, while it runs (`skewed.py`).

Timers run on the clock that never jumps, which is left as it is. The clock of nats-server cannot be moved without the
machine's: it stands still where others jump away from it.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.faults.cloud import Cloud
from tests.faults.rig import pause
from tests.faults.table import Mode, Trial
from tests.faults.watch import Watch, on_a_cloud

_HOUR_S = 3600
#: By how much: skew, hours, days; forward and back.
JUMPS_S = tuple(
    sign * seconds
    for seconds in (2, 300, _HOUR_S, 6 * _HOUR_S, 25 * _HOUR_S, 400 * 24 * _HOUR_S)
    for sign in (1, -1)
)
_HERE = "tests/faults/modes_clocks.py"


class Clock:
    """The wall clock of one service."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._file = folder / f"clock-{name}"
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Let it be so far from the true time, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    @property
    def prefix(self) -> Sequence[str]:
        """The command behind which a process has this clock."""
        return (sys.executable, "-m", "tests.faults.skewed", str(self._file))


@asynccontextmanager
async def own_clocks(cloud: Cloud) -> AsyncIterator[list[Clock]]:
    """Give api, calc and agents clocks of their own while the block runs."""
    names = [name for name in cloud.services if not name.startswith(("nats", "bird-"))]
    clocks = [Clock(name, cloud.folder.path) for name in sorted(names)]
    for clock in clocks:
        await cloud.exchange(clock.name, *clock.prefix)
    try:
        yield clocks
    finally:
        for clock in clocks:
            with contextlib.suppress(KeyError):
                await cloud.exchange(clock.name)


async def clocks_jump(watch: Watch, trial: Trial) -> None:
    """Let the clock of one service after the other jump, forward and back; they never agree on the time."""
    async with own_clocks(watch.cloud) as clocks:
        await watch.recovered()
        while trial.goes_on():
            for _ in range(4):
                one = trial.chance.choice(clocks)
                one.jump(trial.chance.choice(JUMPS_S))
                await asyncio.sleep(0.3 if trial.brief else pause(trial.chance, 0.0, 2.0))
            watch.result.tries += 1
            await watch.recovered()
        await _seen(watch, clocks)
    watch.result.note = "4 jumps a try, of 2 s to 400 days; nats-server's clock stands"


async def _seen(watch: Watch, clocks: Sequence[Clock]) -> None:
    """See that the clocks do jump: hosts say a time of the day before."""
    cloud = watch.cloud
    for one in clocks:
        one.jump(-25 * _HOUR_S)
    for _ in range(2):
        await watch.recovered()
    since = datetime.now(UTC) - timedelta(hours=24)
    for name in cloud.hosts:
        said = await cloud.client.request("GET", f"/v1/hosts/{name}")
        if datetime.fromisoformat(said["at"]) > since:
            watch.result.faults.append(f"{name} says {said['at']}: its clock did not jump")


MODES = (
    Mode("clocks jump", "of api, calc and agents, each by itself, by up to 400 days", on_a_cloud(clocks_jump), ("C7",), where=_HERE),
)  # fmt: skip
