"""Who has arrived is said again to a calc that has just begun: what it could read of it is gone with the bus."""

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_model import topics
from hopwall_model.status import Moved
from tests.dataplane.moves.test_routes import moving
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel


async def again(calc: CalcStandIn, _: AgentProcess) -> list[Moved]:
    """Let calc begin anew; return what it is told of arrivals."""
    told: list[Moved] = []
    subject = topics.moved_subject("h1")
    await calc.link.subscribe(topics.MOVED, subject, lambda moved, _: told.append(moved))
    arrived = structs.replace(moving("target", switched=True), interface="tap9")
    await calc.say(endpoints=(arrived,))
    await calc.applied()
    told.clear()
    calc.epoch, calc.number = "e2", 1
    await calc.say()
    async with asyncio.timeout(60):
        while not told:
            await asyncio.sleep(0.01)
    return told


def test_a_new_calc_is_told_at_once(tmp_path: Path) -> None:
    """It is not left to the heartbeat, which would let the source attract again meanwhile."""
    with Netns("again") as ns:
        told = ns.python(lambda: run_scenario(again, tmp_path, "--heartbeat-s", "600"))
    assert [one.arrived[0].migration for one in told] == ["d/m/1"]
