"""A workload that can be moved between the hosts of a lab, with what watches it.

    h1 ─ tapvm ┐
    h2 ─ tapvm ┼─ hypervisors (a bridge with one cable plugged) ─ eth0 vm
    h3 ─ tapvm ┘

Its TCP stack lives on while the cable is moved, as a virtual machine's memory does. On all hosts the host's end
has the same hardware address, as hypervisors give it.
"""

import asyncio
import itertools
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from hopwall_cli.demo import reached
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import netns
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.lab import Lab
from tests.support.moving_probe import Probe, blackout_s, last_answered_at, latest_s, ways
from tests.support.moving_vm import PORT

WEP, LM = kind_named("wep"), kind_named("lm")
TAP, HOST_MAC = "tapvm", "ee:ee:ee:ee:ee:ee"
V6 = "fd65::4:0"
NAMESPACE = topo.NAMESPACE
_PATIENCE_S = 60.0
#: What a move may take, and how many hand on the word of it, one after the other: the workload, the target's
#: kernel and agent, the bus, calc, the bus again, the other host's agent and kernel, caller and answerer.
BLACKOUT_S, HANDS = 1.0, 10
#: An address that is nobody's.
_NOWHERE = "192.0.2.99"


class Vm:
    """The workload, where it is, and what is declared of it; as an async context manager."""

    def __init__(self, lab: Lab, v4: str, profiles: tuple[str, ...] = ("open",)) -> None:
        """Name it; nothing is made before the `with`."""
        self.lab = lab
        self.v4 = v4
        self.profiles = profiles
        self.at = "h1"
        self.inside = topo.workload_namespace(lab.name, "vm")
        self._bench = topo.workload_namespace(lab.name, "hyper")
        self._process: Process | None = None
        self._numbers = itertools.count(1)
        self._stack = AsyncExitStack()
        self.watches: dict[str, Probe] = {}
        self.changes: dict[str, Probe] = {}
        #: What was done to it, and when; how it is told if a move goes wrong.
        self.steps: list[tuple[float, str]] = []
        self.caller: Probe | None = None
        self._pace: Probe | None = None

    async def __aenter__(self) -> Self:
        """Make it on h1, declare it there, and watch it from everywhere."""
        async with self._stack as stack:
            await self._make(stack)
            answer = await self.lab.client.apply([self.endpoint("h1")], wait="programmed")
            assert reached(answer), answer["status"]
            for host in self.lab.hosts:
                watch = Probe(self.lab.namespace(host), "watch", self.v4)
                self.watches[host] = watch
                stack.callback(watch.close)
                self.changes[host] = Probe(self.lab.namespace(host), "changes", self.v4)
                stack.callback(self.changes[host].close)
            self._pace = Probe(self._bench, "pace", _NOWHERE)
            stack.callback(self._pace.close)
            probes = (*self.watches.values(), *self.changes.values())
            while not all(probe.lines() for probe in probes):
                await asyncio.sleep(0.02)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it and what is declared of it."""
        await self._stack.aclose()

    async def _make(self, stack: AsyncExitStack) -> None:
        for name in (self._bench, self.inside):
            await netns.create(name)
            stack.push_async_callback(netns.delete, name)
        await netns.batch(
            self._bench,
            [
                "link add br0 type bridge forward_delay 0 mcast_snooping 0",
                "link set br0 up",
                f"link add vm type veth peer name eth0 address fa:16:3e:00:00:65 netns {self.inside}",
                "link set vm master br0 up",
            ],
        )
        for host in self.lab.hosts:
            await netns.batch(
                self.lab.namespace(host),
                [
                    f"link add {TAP} address {HOST_MAC} type veth peer name {host} netns {self._bench}",
                    f"link set {TAP} up",
                ],
            )
            await netns.batch(self._bench, [f"link set {host} up"])
        await netns.batch(
            self.inside,
            [
                "link set eth0 up",
                f"addr add {self.v4}/32 dev eth0",
                f"route add default via {topo.LINK_LOCAL_GATEWAY} dev eth0 onlink",
                f"addr add {V6}/128 dev eth0 nodad",
                f"route add ::/0 via {topo.link_local(HOST_MAC)} dev eth0",
            ],
        )
        await netns.batch(self._bench, ["link set h1 master br0"])
        argv = [sys.executable, "-m", "tests.support.moving_vm", self.v4, V6]
        self._process = await asyncio.create_subprocess_exec(
            *netns.inside(self.inside, argv), stdin=PIPE, stdout=PIPE
        )
        stack.push_async_callback(self._end)
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"

    async def _end(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def call_from(self, namespace: str) -> Probe:
        """Call it from a namespace, a thousand times a second, until it is removed."""
        self.caller = Probe(namespace, "call", self.v4, str(PORT))
        self._stack.callback(self.caller.close)
        return self.caller

    # ------------------------------------------------------------ what an orchestrator does

    def endpoint(self, host: str, name: str = "") -> dict[str, Any]:
        """Return the endpoint on a host."""
        spec = {
            "node": host,
            "orchestrator": "openstack",
            "workload": "vm",
            "endpoint": "eth0",
            "interfaceName": TAP,
            "ipNetworks": [f"{self.v4}/32", f"{V6}/128"],
            "profiles": list(self.profiles),
        }
        made = topo.resource("WorkloadEndpoint", name or f"{host}-vm", spec, labels={"vm": "a"})
        made["metadata"]["namespace"] = NAMESPACE
        return made

    def migration(self, there: str) -> dict[str, Any]:
        """Return the migration from where it is to another host; each has a name of its own."""

        def one(host: str) -> dict[str, Any]:
            return {
                "workloadEndpoint": {
                    "hostname": host,
                    "orchestratorID": "openstack",
                    "workloadID": "vm",
                    "endpointID": "eth0",
                }
            }

        spec = {"source": one(self.at), "target": one(there)}
        made = topo.resource("LiveMigration", f"move-{next(self._numbers)}", spec)
        made["metadata"]["namespace"] = NAMESPACE
        return made

    async def declare(self, there: str) -> str:
        """Declare the migration and the target, and wait for it; return the migration's name."""
        migration = self.migration(there)
        self._step(f"declaring the move to {there}")
        answer = await self.lab.client.apply([migration, self.endpoint(there)], wait="programmed")
        assert reached(answer), answer["status"]
        self._step("it is declared")
        return str(migration["metadata"]["name"])

    async def declare_back(self, there: str, wait: str = "programmed") -> str:
        """Declare the migration to where an endpoint still is, and wait for it; return the migration's name."""
        migration = self.migration(there)
        self._step(f"declaring the move back to {there}")
        await self.lab.client.put(LM, migration, wait=wait)
        self._step("it is declared")
        return str(migration["metadata"]["name"])

    def _step(self, text: str) -> None:
        self.steps.append((time.monotonic(), text))

    async def switch(self, migration: str) -> None:
        """Make the call that says that it has arrived."""
        self._step("calling the switch")
        path = f"/v1/namespaces/{NAMESPACE}/livemigrations/{migration}/switch"
        await self.lab.client.request("POST", path)

    async def end(self, migration: str) -> None:
        """Remove the migration."""
        self._step("ending the migration")
        await self.lab.client.delete(LM, namespace=NAMESPACE, name=migration, wait="programmed")
        self._step("it has ended")

    async def remove(self, host: str) -> None:
        """Remove the endpoint of a host."""
        name = f"{host}-vm"
        self._step(f"removing the endpoint of {host}")
        await self.lab.client.delete(WEP, namespace=NAMESPACE, name=name, wait="programmed")

    # ------------------------------------------------------------ what a hypervisor does

    async def plug(self, there: str, sign: str = "") -> float:
        """Move the cable, as when the machine stops here and runs there; return when it began."""
        began_at = time.monotonic()
        lines = [f"link set {self.at} nomaster", f"link set {there} master br0"]
        await netns.batch(self._bench, lines if self.at != there else lines[1:])
        self.at = there
        self._step(f"the cable is at {there}")
        if sign:
            self.say(sign)
        return began_at

    def say(self, sign: str) -> None:
        """Let the workload say that it runs: `garp`, `rarp` or `na`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._step(f"the workload says {sign}")
        self._process.stdin.write(f"{sign}\n".encode())

    # ------------------------------------------------------------ what is seen

    def way_to(self, host: str, there: str) -> str:
        """Return the way a host takes to the workload at another, or at itself."""
        return TAP if host == there else self.lab.hosts[there].ipv4

    async def found_at(self, there: str, *hosts: str) -> None:
        """Wait until these hosts (all others than where it is, when none is named) take the way there."""
        wanted = hosts or tuple(h for h in self.lab.hosts if h != there)
        deadline_at = time.monotonic() + _PATIENCE_S
        while any(self.now(host) != self.way_to(host, there) for host in wanted):
            seen = {host: self.now(host) for host in self.lab.hosts}
            assert time.monotonic() < deadline_at, f"not found at {there}: {seen}"
            await asyncio.sleep(0.002)
        self._step(f"found at {there}")

    def now(self, host: str) -> str:
        """Return the way a host takes now."""
        lines = self.watches[host].lines()
        return lines[-1][1] if lines else ""

    def ways(self, host: str, since: float) -> list[str]:
        """Return the ways a host took since then."""
        return ways(self.watches[host], since)

    async def too_long(self, since: float) -> list[str]:
        """Return what happened since then, if the caller had no answer for longer than a move may take; else nothing.

        Everybody in the chain may have to wait for a busy machine as long as one who does next to nothing.
        """
        assert self._pace is not None
        blackout = await self.blackout_s(since)
        late_s = latest_s(self._pace, since)
        if blackout <= BLACKOUT_S + HANDS * late_s:
            return []
        seen = [f"no answer for {blackout:.3f} s; the machine was late by {late_s:.3f} s at most"]
        return [*seen, *(f"{host}: {self.turns(host, since)}" for host in self.watches)]

    def turns(self, host: str, since: float) -> str:
        """Say when a host took which way since then."""
        lines = [(float(at) - since, way) for at, way in self.watches[host].lines()]
        return ", ".join(f"+{at:.3f} {way}" for at, way in lines if at >= 0)

    async def blackout_s(self, since: float) -> float:
        """Return for how long the caller had no answer since then, once it has one again: then it is over."""
        await self.answered()
        assert self.caller is not None
        return blackout_s(self.caller, since)

    async def answered(self) -> None:
        """Wait until something is answered that the caller sends from now on: it may have to wait for the machine."""
        assert self.caller is not None
        began_at = time.monotonic()
        while last_answered_at(self.caller) < began_at:
            assert time.monotonic() < began_at + _PATIENCE_S, "the caller has no answer any more"
            await asyncio.sleep(0.02)
