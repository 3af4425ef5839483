"""The ways a workload may be moved, right and wrong; each begins and ends with one endpoint and no migration."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hopwall_cli.demo import reached
from hopwall_cli.lab import topology as topo
from tests.support.moving import LM, NAMESPACE, WEP, Vm

#: How long a wrong turn is waited for.
SETTLE_S = 0.3
#: Time of convergence the lab's agents are given; a run that waits for its end waits a little longer.
CONVERGENCE_S = 0.5


@dataclass
class Run:
    """What one run has to show: when it began, and the hosts at which the workload was, in order."""

    began_at: float
    stops: tuple[str, ...]


Variant = Callable[[Vm, str], Awaitable[Run]]


async def _with_sign(vm: Vm, there: str, sign: str) -> Run:
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.plug(there, sign)
    await vm.found_at(there)
    await vm.remove(here)
    await vm.end(name)
    return Run(began_at, (here, there))


async def garp(vm: Vm, there: str) -> Run:
    """The workload sends a gratuitous ARP; the source is removed, then the migration."""
    return await _with_sign(vm, there, "garp")


async def rarp(vm: Vm, there: str) -> Run:
    """The hypervisor sends a reverse ARP for it."""
    return await _with_sign(vm, there, "rarp")


async def advertisement(vm: Vm, there: str) -> Run:
    """The workload sends an unsolicited neighbour advertisement."""
    return await _with_sign(vm, there, "na")


async def call(vm: Vm, there: str) -> Run:
    """The orchestrator says so."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.plug(there)
    await vm.switch(name)
    await vm.found_at(there)
    await vm.remove(here)
    await vm.end(name)
    return Run(began_at, (here, there))


async def missed(vm: Vm, there: str) -> Run:
    """No sign is heard: the end of the migration is what lets the target take over."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.plug(there)
    await vm.end(name)
    await vm.found_at(there)
    await vm.remove(here)
    return Run(began_at, (here, there))


async def cancelled(vm: Vm, there: str) -> Run:
    """The target is removed, then the migration: nothing has happened."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.remove(there)
    await vm.end(name)
    await asyncio.sleep(SETTLE_S)
    return Run(began_at, (here,))


async def late(vm: Vm, there: str) -> Run:
    """The migration ends, and the source is removed only after convergence is over."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.plug(there, "garp")
    await vm.found_at(there)
    await vm.end(name)
    await asyncio.sleep(CONVERGENCE_S + SETTLE_S)
    await vm.remove(here)
    await asyncio.sleep(SETTLE_S)
    return Run(began_at, (here, there))


async def lost(vm: Vm, there: str) -> Run:
    """The removal of the source is lost, and its endpoint even written once more."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.plug(there, "garp")
    await vm.found_at(there)
    await vm.end(name)
    stale = vm.endpoint(here)
    stale["metadata"]["labels"] = {"vm": "stale"}
    await vm.lab.client.put(WEP, stale, wait="programmed")
    await asyncio.sleep(CONVERGENCE_S + SETTLE_S)
    run = Run(began_at, (here, there))
    await vm.remove(here)
    return run


async def back(vm: Vm, there: str) -> Run:
    """It goes, and returns at once, before the first migration has converged or anything was removed."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    await vm.plug(there, "garp")
    await vm.found_at(there)
    await vm.end(name)
    again = await vm.declare_back(here)
    await vm.plug(here, "garp")
    await vm.found_at(here)
    await vm.remove(there)
    await vm.end(again)
    return Run(began_at, (here, there, here))


async def cold(vm: Vm, there: str) -> Run:
    """Without a migration: it stops, is declared elsewhere, runs there, and the old endpoint is removed."""
    here, began_at = vm.at, time.monotonic()
    await vm.plug(there)
    await vm.lab.client.put(WEP, vm.endpoint(there), wait="programmed")
    await vm.found_at(there)
    await vm.remove(here)
    return Run(began_at, (here, there))


async def cold_put(vm: Vm, there: str) -> Run:
    """Without a migration: the one endpoint is written with another host."""
    here, began_at = vm.at, time.monotonic()
    await vm.plug(there)
    name = f"{here}-vm"
    await vm.lab.client.put(WEP, vm.endpoint(there, name), wait="programmed")
    await vm.found_at(there)
    # Back to names that tell the host, as the other variants have them.
    await vm.lab.client.put(WEP, vm.endpoint(there), wait="programmed")
    await vm.lab.client.delete(WEP, namespace=NAMESPACE, name=name, wait="programmed")
    return Run(began_at, (here, there))


#: Those that an orchestrator means, and the blackout of which is held to a second.
VARIANTS: dict[str, Variant] = {
    "gratuitous ARP": garp,
    "reverse ARP": rarp,
    "neighbour advertisement": advertisement,
    "explicit call": call,
    "missed sign": missed,
    "cancelled": cancelled,
    "late removal": late,
    "lost removal": lost,
    "back at once": back,
    "cold, created elsewhere": cold,
    "cold, spec.node changed": cold_put,
}


# ---------------------------------------------------------------- in trouble


def _killing(who: str, step: str) -> Variant:
    """Return a move in which a service is killed after a step."""

    async def variant(vm: Vm, there: str) -> Run:
        here, began_at = vm.at, time.monotonic()
        host = there if who == "target" else here
        service = who if who == "calc" else f"dataplane-{host}"
        name = await vm.declare(there)
        if step == "declared":
            await _kill(vm, service, host)
        await vm.plug(there, "garp")
        await _say_until_found(vm, there)
        if step == "arrived":
            await _kill(vm, service, host)
        await vm.end(name)
        if step == "ended":
            await _kill(vm, service, host)
        await asyncio.sleep(CONVERGENCE_S + SETTLE_S)
        await vm.remove(here)
        return Run(began_at, (here, there))

    return variant


async def _kill(vm: Vm, service: str, host: str) -> None:
    """Kill a service; return when another process does its work."""
    child = vm.lab.services[service]
    before = child.pid
    child.signal(signal.SIGKILL)
    while child.pid in (0, before):
        await asyncio.sleep(0.02)
    # A write that concerns the host is enforced only when its agent has read what there is.
    touched = vm.endpoint(host)
    touched["metadata"]["labels"]["killed"] = str(child.pid)
    touched["spec"]["mac"] = f"02:00:00:00:{child.pid >> 8 & 255:02x}:{child.pid & 255:02x}"
    answer = await vm.lab.client.apply([touched], wait="programmed", timeout_s=60.0)
    assert reached(answer), answer["status"]
    await asyncio.sleep(SETTLE_S)


async def _say_until_found(vm: Vm, there: str, *hosts: str) -> None:
    """Let the hypervisor say it again, as hypervisors do, until everybody has heard."""

    async def again() -> None:
        while True:
            await asyncio.sleep(0.1)
            vm.say("rarp")

    async with asyncio.TaskGroup() as tasks:
        saying = tasks.create_task(again())
        await vm.found_at(there, *hosts)
        saying.cancel()


async def cut_off(vm: Vm, there: str) -> Run:
    """The source's host does not reach NATS from the declaration on, until convergence is long over."""
    here, began_at = vm.at, time.monotonic()
    name = await vm.declare(there)
    cuts = [["INPUT", "-s"], ["OUTPUT", "-d"]]
    for chain, end in cuts:
        await vm.lab.run(
            here, ["iptables", "-w", "-I", chain, end, f"{topo.PREFIX4}.1", "-j", "DROP"]
        )
    try:
        await vm.plug(there, "garp")
        others = [host for host in vm.lab.hosts if host not in (here, there)]
        # With BGP the old host finds it too.
        await vm.found_at(there, *others, *([here] if vm.lab.routing == "bgp" else []))
        await vm.lab.client.delete(WEP, namespace=NAMESPACE, name=f"{here}-vm")
        await vm.lab.client.delete(LM, namespace=NAMESPACE, name=name)
        await asyncio.sleep(CONVERGENCE_S + SETTLE_S)
    finally:
        for chain, end in cuts:
            await vm.lab.run(
                here, ["iptables", "-w", "-D", chain, end, f"{topo.PREFIX4}.1", "-j", "DROP"]
            )
    await vm.found_at(there)
    answer = await vm.lab.client.apply([vm.endpoint(there)], wait="programmed")
    assert reached(answer), answer["status"]
    return Run(began_at, (here, there))


CUT = "source cut off from NATS"
TROUBLES: dict[str, Variant] = {
    CUT: cut_off,
    "calc killed after the arrival": _killing("calc", "arrived"),
    "source's agent killed before the arrival": _killing("source", "declared"),
    "source's agent killed after it": _killing("source", "arrived"),
    "source's agent killed after the end": _killing("source", "ended"),
    "target's agent killed before the arrival": _killing("target", "declared"),
    "target's agent killed after it": _killing("target", "arrived"),
    "target's agent killed after the end": _killing("target", "ended"),
}


def wrong_turns(vm: Vm, run: Run) -> list[str]:
    """Return what is wrong with the ways that hosts took: those to the workload's stops, once each, and no others.

    At a stop itself there may be none for a moment: what comes there then is lost, as the workload has gone.
    """
    found = []
    for host in vm.lab.hosts:
        seen = vm.ways(host, run.began_at)
        if host in run.stops:
            seen = [way for way in seen if way != "none"]
        if seen != [vm.way_to(host, stop) for stop in run.stops]:
            found.append(f"{host}: {' → '.join(seen)} ({vm.turns(host, run.began_at)})")
    return found
