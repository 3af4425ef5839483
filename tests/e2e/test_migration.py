"""Workloads that move between hosts, by every variant, in labs with routes by NATS and by BGP."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hopwall_cli.demo import reached
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Routing, Topology
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload
from tests.support.moving import Vm
from tests.support.moving_variants import CONVERGENCE_S, VARIANTS, wrong_turns
from tests.support.talk import Talk

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

#: Of the hosts' pools, in nobody's block; with blocks, the first host's.
ADDRESS = "10.65.77.7"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "mesh", "reflector"])
async def vm(request: pytest.FixtureRequest) -> AsyncIterator[Vm]:
    """Run a lab with a workload that moves, and one on h3 that calls it."""
    flags = ["--migration-convergence-s", str(CONVERGENCE_S)]
    routing: Routing = "direct" if request.param == "direct" else "bgp"
    topology: Topology = "reflector" if request.param == "reflector" else "mesh"
    async with Lab("mig", hosts=3, routing=routing, topology=topology, agent_flags=flags) as lab:
        await lab.client.apply([topo.open_profile("open")])
        await lab.add(Workload(name="far", host="h3", ipv4="10.65.78.8", profiles=("open",)))
        assert reached(await lab.declare())
        address = ADDRESS
        if routing == "bgp":
            address = (await lab.assign("blocked", "h1")).ipv4
        async with Vm(lab, address) as moved:
            moved.call_from(lab.namespace("far"))
            await moved.found_at("h1")
            yield moved


@pytest.mark.parametrize("name", VARIANTS)
async def test_a_workload_moves(vm: Vm, name: str) -> None:
    """No host ever has two ways or none, none goes back, and the caller is without an answer for a second at most."""
    there = "h2" if vm.at == "h1" else "h1"
    run = await VARIANTS[name](vm, there)
    assert wrong_turns(vm, run) == []
    assert vm.blackout_s(run.began_at) <= 1.0


async def test_connections_survive(vm: Vm) -> None:
    """A stream that the workload began, and one that was begun to it, go on after it has moved."""
    far = vm.lab.namespace("far")
    talks = [
        Talk(far, "serve", "tcp", "0.0.0.0", 7101),
        Talk(vm.inside, "serve", "tcp", "0.0.0.0", 7102),
    ]
    talks += [
        Talk(vm.inside, "call", "tcp", "10.65.78.8", 7101),
        Talk(far, "call", "tcp", vm.v4, 7102),
    ]
    try:
        await heard_by_all(talks)
        run = await VARIANTS["gratuitous ARP"](vm, "h2" if vm.at == "h1" else "h1")
        assert wrong_turns(vm, run) == []
        await heard_by_all(talks)
    finally:
        for talk in talks:
            talk.close()


async def heard_by_all(talks: list[Talk]) -> None:
    """Wait until each has heard something new."""
    began_at = time.monotonic()
    while any(talk.last_at() <= began_at for talk in talks):
        assert time.monotonic() < began_at + 15, [talk.last_at() - began_at for talk in talks]
        await asyncio.sleep(0.05)
