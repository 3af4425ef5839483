"""Workloads that move between hosts, by every variant, in labs with routes by NATS and by BGP."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hopwall_cli.demo import reached
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import netns
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Routing, Topology
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload
from hopwall_dataplane.moves.phases import YIELDING
from tests.support.moving import V6, Vm
from tests.support.moving_story import Story
from tests.support.moving_variants import (
    CONVERGENCE_S,
    CUT,
    TROUBLES,
    VARIANTS,
    Run,
    wrong_turns,
)
from tests.support.talk import Talk

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

GNP = kind_named("gnp")
#: Of the hosts' pools, in nobody's block; with blocks, the first host's.
ADDRESS = "10.65.77.7"


LABS = ("direct", "mesh", "reflector")
in_each_lab = pytest.mark.parametrize("vm", LABS, indirect=True, scope="module")
in_the_last = pytest.mark.parametrize("vm", LABS[-1:], indirect=True, scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
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


@in_each_lab
@pytest.mark.parametrize("name", VARIANTS)
async def test_a_workload_moves(vm: Vm, name: str) -> None:
    """No host ever has two ways or none, none goes back, and the caller is without an answer for a second at most."""
    there = "h2" if vm.at == "h1" else "h1"
    run = await VARIANTS[name](vm, there)
    assert wrong_turns(vm, run) == []
    assert await vm.too_long(run.began_at) == []


@in_each_lab
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
        # What is true of one family is true of the other.
        said = await vm.lab.run("h3", ["ip", "-6", "route", "get", V6])
        assert f"via {vm.lab.hosts[vm.at].ipv6} " in said
    finally:
        for talk in talks:
            talk.close()


_SENDER = """
import socket, sys, time
with socket.create_server(("", int(sys.argv[1]))) as listening:
    print("ready", flush=True)
    stream = listening.accept()[0]
    while True:
        stream.send(b"x" * 100)
        time.sleep(0.05)
"""
_RECEIVER = """
import socket, sys, time
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])))
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
while stream.recv(65536):
    print(time.monotonic(), flush=True)
"""


@in_each_lab
async def test_what_the_workload_began_goes_on_though_nothing_may_come_in(vm: Vm) -> None:
    """A download survives where policy lets nothing be begun to the workload: its flows come with it."""
    client, lab = vm.lab.client, vm.lab
    allow = [{"action": "Allow"}]
    closed = topo.resource("GlobalNetworkPolicy", "nothing-in", {"selector": "vm == 'a'"})
    closed["spec"] |= {"types": ["Ingress", "Egress"], "egress": allow}
    assert reached(await client.apply([closed], wait="programmed"))
    far = netns.inside(lab.namespace("far"), [sys.executable, "-c", _SENDER, "7103"])
    near = netns.inside(vm.inside, [sys.executable, "-uc", _RECEIVER, "10.65.78.8", "7103"])
    sender = await asyncio.create_subprocess_exec(*far, stdout=asyncio.subprocess.PIPE)
    assert sender.stdout is not None
    assert await sender.stdout.readline() == b"ready\n"
    receiver = await asyncio.create_subprocess_exec(*near, stdout=asyncio.subprocess.PIPE)
    try:
        assert receiver.stdout is not None
        for there in ("h2" if vm.at == "h1" else "h1", vm.at):
            async with asyncio.timeout(60):
                assert await receiver.stdout.readline()
            run = await VARIANTS["gratuitous ARP"](vm, there)
            assert wrong_turns(vm, run) == []
            ended_at = time.monotonic()
            async with asyncio.timeout(60):
                while float(await receiver.stdout.readline()) <= ended_at:
                    pass
    finally:
        # The receiver first: it ends by itself when the sender is gone.
        for process in (receiver, sender):
            if process.returncode is None:
                process.kill()
            await process.wait()
        await client.delete(GNP, namespace="", name="nothing-in", wait="programmed")
    # The policy closed the caller's flow too, and that goes on some time after it is allowed again.
    await vm.answered()


async def heard_by_all(talks: list[Talk]) -> None:
    """Wait until each has heard something new."""
    began_at = time.monotonic()
    while any(talk.last_at() <= began_at for talk in talks):
        assert time.monotonic() < began_at + 60, [talk.last_at() - began_at for talk in talks]
        await asyncio.sleep(0.05)


@in_each_lab
async def test_a_source_that_is_cut_off_attracts_nothing(vm: Vm) -> None:
    """All others find the workload; with BGP the old host does too, and goes on after convergence."""
    await moves_in_trouble(vm, CUT)


@pytest.mark.parametrize("vm", ["mesh"], indirect=True, scope="module")
async def test_what_the_last_host_said_is_no_news_of_a_way_back(vm: Vm) -> None:
    """As long as its BIRD tells nobody that the workload has left, nobody believes that it has gone back there."""
    here, there = "h2", "h1"
    bird = vm.lab.services[f"bird-{here}"]
    if vm.at == here:
        await VARIANTS["gratuitous ARP"](vm, there)
    name = await vm.declare(here)
    await vm.plug(here, "garp")
    await vm.found_at(here)
    bird.signal(signal.SIGSTOP)
    try:
        await vm.remove(there)
        await vm.end(name)
        story, began_at = Story(vm), time.monotonic()
        name = await vm.declare(there)
        await vm.plug(there, "garp")
        await vm.found_at(there, there)
        await vm.end(name)
        # It is programmed once the source yields, which waits for that BIRD.
        name = await vm.declare_back(here, wait="")
        await asyncio.sleep(0.3)
    finally:
        bird.signal(signal.SIGCONT)
    await _yields(vm, there)
    await vm.plug(here, "garp")
    await vm.found_at(here)
    await vm.remove(there)
    await vm.end(name)
    run = Run(began_at, (here, there, here))
    # The third host knows two that are preferred as long as the last one's BIRD is silent, and takes either.
    wrong = [one for one in wrong_turns(vm, run) if not one.startswith("h3:")]
    assert wrong == [], "\n".join([*wrong, *story.tell(run)])


async def _yields(vm: Vm, host: str) -> None:
    """Wait until the workload's route on a host yields to any other."""
    async with asyncio.timeout(10):
        while f"metric {YIELDING}" not in await vm.lab.run(host, ["ip", "route", "show", vm.v4]):
            await asyncio.sleep(0.01)


@in_the_last
@pytest.mark.parametrize("name", [name for name in TROUBLES if name != CUT])
async def test_who_is_killed_goes_on_where_it_was(vm: Vm, name: str) -> None:
    """Calc, or either agent, may crash at any step: nothing flips, and what was begun is done."""
    await moves_in_trouble(vm, name)


async def moves_in_trouble(vm: Vm, name: str) -> None:
    """Move it, and see that no host took a wrong turn."""
    run = await TROUBLES[name](vm, "h2" if vm.at == "h1" else "h1")
    assert wrong_turns(vm, run) == []
    assert await vm.too_long(run.began_at) == []


@in_each_lab
async def test_the_source_dies_while_its_workload_moves(vm: Vm) -> None:
    """The last test of a lab: a host that loses its power in the middle takes nothing along.

    Nobody asks it for anything at the switch, so it takes no longer than any other move.
    """
    if vm.at == "h1":
        await VARIANTS["gratuitous ARP"](vm, "h2")
    began_at = time.monotonic()
    await vm.declare("h1")
    await vm.plug("h1", "garp")
    await vm.lab.crash("h2")
    await vm.found_at("h1", "h3")
    await asyncio.sleep(0.5)
    assert vm.ways("h3", began_at)[-1] == vm.way_to("h3", "h1")
    assert await vm.too_long(began_at) == []
