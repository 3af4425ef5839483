"""The agent, a real NATS and two real BIRDs: workloads here are reached from there, and the agent is in nobody's way."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from hopwall_model.bgp import PrefixRange
from hopwall_model.status import HostStatus
from hopwall_model.updates import BgpSet, EndpointId, EndpointSet
from tests.support.bird_hosts import BirdHost, BirdHosts, mesh, speaker
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

ENTITLED = PrefixRange("10.65.0.0/16", 32, 32)
BGP = BgpSet(bgp=speaker(1, mesh(1, 2, ENTITLED)))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[BirdHosts]:
    """Make two hosts whose BIRDs run; the second is configured by hand, the first is the agent's."""
    with BirdHosts("agentbgp", tmp_path, 2) as found:
        for end in (
            "link add tapa type veth peer name va",
            "link set tapa up",
            "link set va up",
        ):
            found[1].ns.run(["ip", *end.split()])
        found[1].start()
        found[2].start()
        found[2].configure(speaker(2, mesh(2, 1, ENTITLED)))
        yield found


def run(hosts: BirdHosts, scenario: Callable[..., Awaitable[None]]) -> None:
    """Run a scenario with a real agent on the first host."""
    host = hosts[1]
    host.ns.python(
        run_scenario, scenario, host.folder, "--bgp", "--bird-socket", str(host.socket),
        "--bird-config", str(host.config), "--bird-secrets", str(host.secrets),
        "--refresh-s", "1",
    )  # fmt: skip


def endpoint(*addresses: str) -> EndpointSet:
    """Return the workload of this host."""
    return EndpointSet(id=EndpointId("d/a"), interface="tapa", addresses=addresses)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.1)


def established(status: HostStatus) -> bool:
    """Tell whether the session is up."""
    return status.bgp is not None and status.bgp.in_sync and status.bgp.n_established == 1


def n_configured(host: BirdHost) -> int:
    """Return how often BIRD was configured anew."""
    return (host.folder / "bird.log").read_text().count("Reconfiguring")


def test_an_endpoint_is_announced_and_a_restart_of_the_agent_is_nothing(hosts: BirdHosts) -> None:
    """A workload is reached from the other host as long as it is there, whoever restarts."""

    async def scenario(calc: CalcStandIn, agent: AgentProcess) -> None:
        await calc.say(endpoints=(endpoint("10.65.1.4/32"),), bgp=BGP)
        status = await calc.until(established)
        assert status.bgp is not None
        assert [s.name for s in status.bgp.sessions] == ["mesh/h2"]
        await until(lambda: hosts[2].learnt().keys() == {"10.65.1.4"})
        before = (n_configured(hosts[1]), hosts[1].config.stat().st_mtime_ns)
        agent.kill()
        calc.forget()
        agent.start()
        await calc.until(established)
        await asyncio.sleep(1)
        assert (n_configured(hosts[1]), hosts[1].config.stat().st_mtime_ns) == before
        await calc.remove("d/a")
        await until(lambda: hosts[2].learnt() == {})

    run(hosts, scenario)


def test_what_bird_learnt_is_not_ours_to_touch(hosts: BirdHosts) -> None:
    """Learnt routes stay through every re-reading of the kernel, and a workload here wins over one of them."""

    def kernel_says() -> str:
        got = ["ip", "route", "get", "10.65.2.4"]
        # For the moment until BIRD has seen that the workload left there is no way at all.
        return subprocess.run(got, capture_output=True, text=True, check=False).stdout

    async def scenario(calc: CalcStandIn, _: AgentProcess) -> None:
        await calc.say(bgp=BGP)
        await calc.until(established)
        hosts[2].workload("10.65.2.4/32")
        await until(lambda: hosts[1].learnt().keys() == {"10.65.2.4"})
        await asyncio.sleep(2.5)
        assert hosts[1].learnt().keys() == {"10.65.2.4"}
        assert "via 172.30.0.2" in kernel_says()
        await calc.say(endpoints=(endpoint("10.65.2.4/32"),))
        status = await calc.applied()
        assert status.refused == ()
        assert "dev tapa" in kernel_says()
        await calc.remove("d/a")
        await until(lambda: "via 172.30.0.2" in kernel_says())
        assert calc.statuses[-1].drift_repaired == 0

    run(hosts, scenario)


def test_without_bird_the_rest_of_the_host_goes_on(hosts: BirdHosts) -> None:
    """BIRD away: endpoints are programmed as ever, and the status says what is wrong with BGP."""

    async def scenario(calc: CalcStandIn, _: AgentProcess) -> None:
        await calc.say(endpoints=(endpoint("10.65.1.4/32"),), bgp=BGP)
        status = await calc.until(lambda s: s.bgp is not None and bool(s.bgp.reason))
        assert status.bgp is not None
        assert not status.bgp.in_sync
        assert "BIRD does not answer" in status.bgp.reason
        await calc.applied()
        assert "10.65.1.4 dev tapa" in hosts[1].all_routes()

    hosts[1].kill()
    run(hosts, scenario)
