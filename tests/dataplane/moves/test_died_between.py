"""A real agent is killed when the route of who has arrived stands, and before its flows have come."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.moves.phases import ELEVATED
from hopwall_dataplane.residents import packed
from hopwall_model import codec, topics
from hopwall_model.flows import CarriedFlow, CarriedFlows, FlowsRequest
from hopwall_model.updates import EndpointSet, PolicyId, TierPolicies
from hopwall_runtime import clock
from tests.dataplane.moves.test_routes import SHARED, moving
from tests.dataplane.test_desired import policy
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

FLOW = CarriedFlow(6, "10.65.0.5", "192.0.2.9", 40000, 80)


def part(*, switched: bool = False) -> EndpointSet:
    """Return the target, which may begin whatever it wants, and to which nothing may be begun."""
    tier = TierPolicies(name="default", egress=(PolicyId("p"),))
    return structs.replace(moving("target", switched=switched), interface="tap9", tiers=(tier,))


def tracked() -> set[int]:
    """Return the source ports of the flows of the workload that the kernel tracks."""
    driver = ConntrackDriver()
    try:
        return {flow.source_port for flows, _ in driver.read({packed(SHARED)}) for flow in flows}
    finally:
        driver.close()


def stands() -> bool:
    """Tell whether the elevated route to the workload stands."""
    argv = ["ip", "route", "show", SHARED, "metric", str(ELEVATED)]
    return bool(subprocess.run(argv, capture_output=True, check=True).stdout)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def keep_fresh(state: Path) -> None:
    """Let what the agent has noted not get old while the next one starts, however slow the machine."""
    (note,) = state.rglob("arrivals")
    later_at = clock.file_time() + 60
    os.utime(note, (later_at, later_at))


async def killed(calc: CalcStandIn, agent: AgentProcess, *, ends: bool, state: Path) -> None:
    """Kill it while the source is silent; with `ends` the migration is over when the next one begins."""
    silent = True

    def answer(_: FlowsRequest, __: str) -> bytes | None:
        told = CarriedFlows(host="h9", known=True, flows=(FLOW,))
        return None if silent else codec.encode(told)

    await calc.link.serve_chunked(topics.FLOWS, topics.flows_subject("h9", "h1"), answer)
    await calc.say(pieces=(policy("p"),), endpoints=(part(),))
    await calc.applied()
    await calc.say(endpoints=(part(switched=True),))
    await until(stands)
    agent.kill()
    assert tracked() == set()
    silent = False
    keep_fresh(state)
    if ends:
        await calc.say(endpoints=(structs.replace(part(), move=None),))
    agent.start()
    await until(lambda: FLOW.source_port in tracked())


@pytest.mark.parametrize("ends", [False, True])
def test_the_next_agent_fetches_the_flows(tmp_path: Path, ends: bool) -> None:
    """They come though nothing was begun again, also when nobody says any more where from."""
    scenario: Callable[[CalcStandIn, AgentProcess], Awaitable[None]] = partial(
        killed, ends=ends, state=tmp_path / "state"
    )
    with Netns("between") as ns:
        ns.run(["ip", "link", "add", "tap9", "type", "veth", "peer", "name", "peer9"])
        for end in ("tap9", "peer9"):
            ns.run(["ip", "link", "set", end, "up"])
        ns.python(lambda: run_scenario(scenario, tmp_path, "--state-dir", str(tmp_path / "state")))
