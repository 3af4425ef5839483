"""Host endpoints through the whole agent: addresses that come and go, a restart, and its own way to NATS."""

import asyncio
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_model.updates import HostEndpointId, HostEndpointSet
from tests.dataplane.test_agent import endpoint, first_state, save, sh
from tests.support.calc_stand_in import AgentProcess, CalcStandIn, run_scenario
from tests.support.netns import Netns

pytestmark = [pytest.mark.kernel, pytest.mark.nats]

CLOSED = HostEndpointSet(
    id=HostEndpointId("h"), interface="", expected_ips=("198.51.100.5/32", "192.0.2.1/32")
)


@pytest.fixture
def host() -> Iterator[Netns]:
    """Make a host with two uplinks, one of them with an address."""
    with Netns("hosts") as ns:
        for line in (
            "link add eth0 type veth peer name fabric0",
            "link add eth1 type veth peer name fabric1",
            "link set eth0 up",
            "link set eth1 up",
            "addr add 172.18.203.125/24 dev eth0",
            "addr add fd00:203::125/64 dev eth0 nodad",
            "addr add 198.51.100.5/24 dev eth0",
            "link add tapa type veth peer name va",
            "link set tapa up",
        ):
            ns.run(["ip", *line.split()])
        yield ns


def closed_by(backend: str) -> set[str]:
    """Return the interfaces that have a host endpoint."""
    return set(re.findall(r"-A hw-host-in -i (\S+) .*-g hw-hin-", save(backend)))


async def until_closed(backend: str, names: set[str]) -> None:
    """Wait until these interfaces, and no others, have a host endpoint."""
    async with asyncio.timeout(60):
        while closed_by(backend) != names:
            await asyncio.sleep(0.05)


async def _follows(calc: CalcStandIn, agent: AgentProcess) -> tuple[list[str], float]:
    backend = "legacy" if agent.argv[-1] == "legacy" else "nft"
    await first_state(calc)
    await calc.say(host_endpoints=(CLOSED,))
    await calc.applied()
    await until_closed(backend, {"eth0"})
    sh("ip addr add 192.0.2.1/24 dev eth1")
    await until_closed(backend, {"eth0", "eth1"})
    sh("ip addr del 198.51.100.5/24 dev eth0")
    await until_closed(backend, {"eth1"})
    # The bus is on this host's loopback: what is said still arrives, although all is denied.
    await calc.say(endpoints=(endpoint("a", "10.65.0.24/32"),))
    status = await calc.applied()
    agent.kill()
    calc.forget()
    agent.start()
    await calc.applied()
    with urllib.request.urlopen("http://127.0.0.1:9099/metrics") as answer:
        metrics = answer.read().decode()
    ops = re.search(r"^hopwall_int_dataplane_ops_total (\S+)", metrics, re.M)
    assert ops is not None
    return [r.object for r in status.refused], float(ops[1])


def test_a_host_endpoint_follows_its_address_and_survives_a_restart(
    host: Netns, tmp_path: Path, backend: str
) -> None:
    """Addresses decide at once whose an interface is; an agent without memory writes nothing."""
    refused, ops = host.python(run_scenario, _follows, tmp_path, "--backend", backend)
    assert refused == []
    assert ops == 0
