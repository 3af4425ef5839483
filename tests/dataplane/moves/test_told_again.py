"""Who has arrived is said again to a calc that has just begun: what it could read of it is gone with the bus."""

import asyncio
import time
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_model import topics
from hopwall_model.status import Moved
from tests.dataplane.moves.test_routes import moving
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel


async def again(calc: CalcStandIn, _: AgentProcess) -> tuple[list[Moved], float]:
    """Let calc begin anew; return what it is told of arrivals, and after which time."""
    told: list[Moved] = []
    subject = topics.moved_subject("h1")
    await calc.link.subscribe(topics.MOVED, subject, lambda moved, _: told.append(moved))
    arrived = structs.replace(moving("target", switched=True), interface="tap9")
    await calc.say(endpoints=(arrived,))
    await calc.applied()
    told.clear()
    calc.epoch, calc.number = "e2", 1
    began_at = time.monotonic()
    await calc.say()
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.01)
    return told, time.monotonic() - began_at


def test_a_new_calc_is_told_at_once(tmp_path: Path) -> None:
    """It is not left to the heartbeat, which would let the source attract again meanwhile."""
    with Netns("again") as ns:
        told, took_s = ns.python(lambda: run_scenario(again, tmp_path, "--heartbeat-s", "60"))
    assert [one.arrived[0].migration for one in told] == ["d/m/1"]
    assert took_s < 10
