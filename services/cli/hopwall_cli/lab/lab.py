"""A running lab: build it, start the services in it, probe it, and leave nothing behind.

    async with Lab("demo", hosts=3) as lab:
        await lab.add(Workload(name="vm21", host="h2", ipv4="10.65.0.21"))
        assert await lab.reach("vm21", "vm22", "tcp")

Owner:  namespaces `hw-<lab>-…` and the run folder; both are swept before and after, so an earlier crash
        costs nothing.
"""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from hopwall_cli.client import Client, read_token
from hopwall_cli.lab import build, netns, routes, rules
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.prober import Prober
from hopwall_cli.lab.responder import DEFAULT_PORT
from hopwall_cli.lab.run_folder import Description, RunFolder
from hopwall_cli.lab.topology import LabError, Workload
from hopwall_cli.nats_server import command as nats_command
from hopwall_cli.pki.folder import PkiFolder
from hopwall_cli.supervisor import Child, Say
from hopwall_cli.supervisor import end as end_process
from hopwall_model.permissions import User
from hopwall_model.topics import Role

Proto = Literal["icmp", "tcp", "udp"]
NATS_LISTEN = f"{topo.PREFIX4}.1:4222"


def quiet(_: str) -> None:
    """Say nothing."""


class Witnessed:
    """What a witness saw; known after its block."""

    packets = 0


class Lab:
    """Hosts, workloads and services of one lab, as an async context manager."""

    def __init__(
        self,
        name: str = "demo",
        *,
        hosts: int = 3,
        backend: str = "nft",
        dhcp: bool = False,
        services: bool = True,
        secure: bool = True,
        agent_flags: Sequence[str] = (),
        say: Say = quiet,
    ) -> None:
        """Describe the lab; with `services=False` it is only namespaces and cables.

        Every process has its own credential, as in `hopwall pki`, and `client` the admin's; not so without
        `secure`.
        `agent_flags` go to every dataplane process.

        Errors: LabError for a bad name or number of hosts.
        """
        self.folder = RunFolder(name)
        self.name = name
        self.hosts = {host.name: host for host in topo.hosts(hosts)}
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Child] = {}
        self.client = Client(self.folder.server)
        self._backend = backend
        self._dhcp = dhcp
        self._with_services = services
        self.pki = PkiFolder(self.folder.path / "pki") if secure else None
        self._agent_flags = list(agent_flags)
        self._say = say
        self._relays: dict[str, Process] = {}
        self._probers: dict[str, Prober] = {}
        self._stack = AsyncExitStack()
        self._kept: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Sweep what a crash left, build the lab, and wait until the API is ready."""
        if os.geteuid() != 0:
            raise LabError("a lab needs root: it makes network namespaces.")
        self.folder.take()
        self._stack.callback(self.folder.release)
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes and remove namespaces and folder."""
        await self._stack.aclose()

    async def _open(self) -> None:
        await build.sweep(self.name)
        self.folder.make()
        self._stack.callback(self.folder.clear)
        self._stack.push_async_callback(build.sweep, self.name)
        self._stack.push_async_callback(self._end_processes)
        await build.fabric(self.name)
        await netns.together(*(build.host(self.name, host) for host in self.hosts.values()))
        if self._dhcp:
            await build.dhcp(self.name, next(iter(self.hosts.values())))
        self.describe()
        if self._with_services:
            await self._start_services()

    async def _end_processes(self) -> None:
        await netns.together(
            *(prober.close() for prober in self._probers.values()),
            *(end_process(relay) for relay in self._relays.values()),
        )

    # ---------------------------------------------------------------- services

    async def _start_services(self) -> None:
        self._stack.push_async_callback(self._stop_services)
        fabric = topo.fabric_namespace(self.name)
        security = await self._make_pki()
        nats = nats_command(listen=NATS_LISTEN, folder=self.folder.path / "nats", security=security)
        self._keep("nats", fabric, nats)
        api = ["--listen", f"127.0.0.1:8080,unix:{self.folder.api_socket}"]
        self._keep("api", fabric, self._service(User(Role.API), api))
        self._keep("calc", fabric, self._service(User(Role.CALC), []))
        for host in self.hosts:
            namespace = topo.host_namespace(self.name, host)
            flags = ["--host", host, "--backend", self._backend]
            flags += self._agent_flags
            argv = self._service(User(Role.HOST, host), flags)
            self._keep(f"dataplane-{host}", namespace, argv)
        await self._until(self.client.ready(timeout_s=60.0))
        pool = topo.resource("IPPool", "lab-v4", {"cidr": topo.POOL4})
        pool6 = topo.resource("IPPool", "lab-v6", {"cidr": topo.POOL6})
        await self.client.apply([pool, pool6, *(host.resource() for host in self.hosts.values())])
        self.describe()

    async def _make_pki(self) -> Path | None:
        """Make the credentials of a secured lab; return what nats-server includes."""
        if self.pki is None:
            return None
        address = NATS_LISTEN.rpartition(":")[0]
        await asyncio.to_thread(self.pki.make, hosts=list(self.hosts), addresses=[address])
        await self.client.close()
        self.client = Client(self.folder.server, token=read_token(str(self.pki.admin_token)))
        return self.pki.security_conf

    async def _until(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for the work, or for a service that refuses to run, whichever is first."""
        waiting = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait([waiting, *self._kept], return_when=asyncio.FIRST_COMPLETED)
            for task in self._kept:
                if task.done():
                    task.result()
            await waiting
        finally:
            waiting.cancel()

    def _service(self, user: User, flags: list[str]) -> list[str]:
        module = [sys.executable, "-m", f"hopwall_{user.service}"]
        secrets = self.pki.flags(user) if self.pki is not None else []
        return [*module, "--nats-url", f"nats://{NATS_LISTEN}", *secrets, *flags]

    def _keep(self, name: str, namespace: str, argv: list[str]) -> None:
        log = self.folder.log(name)
        child = Child(name, netns.inside(namespace, argv), say=self._say, log=log)
        self.services[name] = child
        # A loop method, not a TaskGroup: services live across the tasks that enter and leave the lab.
        self._kept.append(asyncio.get_running_loop().create_task(child.keep(), name=name))

    async def _stop_services(self) -> None:
        await self.client.close()  # first: an API that ends waits for its callers
        nats, *others = self._kept  # last: the others still have something to say to it
        for group in (others, [nats]):
            for task in group:
                task.cancel()
            await asyncio.gather(*group, return_exceptions=True)

    @property
    def client_flags(self) -> list[str]:
        """The flags with which `hopwall` talks to this lab as its admin."""
        token = ["--token-file", str(self.pki.admin_token)] if self.pki is not None else []
        return ["--server", self.folder.server, *token]

    def describe(self) -> None:
        """Write down what runs, for `lab status` and `lab exec`."""
        processes = {name: child.pid for name, child in self.services.items()}
        processes |= {f"responder {name}": probe.pid for name, probe in self._probers.items()}
        processes |= {f"relay {name}": relay.pid for name, relay in self._relays.items()}
        self.folder.write(
            Description(
                name=self.name,
                owner=os.getpid(),
                hosts={host.name: host.ipv4 for host in self.hosts.values()},
                workloads={w.name: f"{w.ipv4} on {w.host}" for w in self.workloads.values()},
                processes=processes,
            )
        )

    # ---------------------------------------------------------------- workloads

    async def add(self, *workloads: Workload) -> None:
        """Make workloads; nothing is declared to the API (see `declare`).

        Errors: LabError for a host that is not in the lab.
        """
        for workload in workloads:
            if workload.host not in self.hosts:
                raise LabError(f"workload {workload.name}: the lab has no host {workload.host}.")
        await netns.together(*(self._add(workload) for workload in workloads))
        self.describe()

    async def _add(self, workload: Workload) -> None:
        self.workloads[workload.name] = workload
        relay = await build.workload(self.name, workload)
        if relay is not None:
            self._relays[workload.name] = relay
        await self._prober(workload.name)

    async def remove(self, name: str) -> None:
        """Remove a workload from the kernel, as if it had died."""
        workload = self.workloads.pop(name)
        if prober := self._probers.pop(name, None):
            await prober.close()
        if relay := self._relays.pop(name, None):
            await end_process(relay)
        await build.remove_workload(self.name, workload)
        self.describe()

    async def declare(self, *names: str, wait: str = "programmed") -> dict[str, Any]:
        """Tell the API of workloads (all, when none is named), in one call; return its answer."""
        wanted = names or tuple(self.workloads)
        return await self.client.apply(
            [self.workloads[name].resource() for name in wanted], wait=wait
        )

    # ---------------------------------------------------------------- looking

    def namespace(self, place: str) -> str:
        """Return the namespace of a host, of a workload, or of the fabric.

        Errors: LabError when the lab has nothing of that name.
        """
        if place in self.hosts:
            return topo.host_namespace(self.name, place)
        if place in self.workloads:
            return topo.workload_namespace(self.name, place)
        if place == "fabric":
            return topo.fabric_namespace(self.name)
        raise LabError(f"lab {self.name} has no host and no workload {place}.")

    async def run(self, place: str, argv: Sequence[str], *, check: bool = True) -> str:
        """Run a command in a host, in a workload or in the fabric, and return its output."""
        return await netns.run(netns.inside(self.namespace(place), argv), check=check)

    async def prober(self, place: str) -> Prober:
        """Return the running responder of a workload, a host or the fabric."""
        return self._probers.get(place) or await self._prober(place)

    async def _prober(self, place: str) -> Prober:
        prober = Prober(self.namespace(place), log=self.folder.log(f"responder-{place}"))
        self._probers[place] = prober
        await prober.start()
        return prober

    async def reach(
        self,
        src: str,
        dst: str,
        proto: Proto = "icmp",
        *,
        port: int = DEFAULT_PORT,
        version: Literal[4, 6] = 4,
        timeout_s: float = 0.8,
    ) -> bool:
        """Tell whether `src` gets an answer from `dst` (a workload, a host, or an address)."""
        prober = await self.prober(src)
        if port != DEFAULT_PORT and dst in self.workloads:
            await self._probers[dst].ask("listen", {"port": port})
        address = self.address(dst, version)
        answer = await prober.ask(proto, {"dst": address, "port": port}, timeout_s=timeout_s)
        return bool(answer["ok"])

    def address(self, place: str, version: Literal[4, 6] = 4) -> str:
        """Return the address of a workload or a host; an address is returned as it is."""
        machine = self.workloads.get(place) or self.hosts.get(place)
        if machine is None:
            return place
        return machine.ipv4 if version == 4 else machine.ipv6

    async def matrix(
        self,
        names: Iterable[str] = (),
        proto: Proto = "icmp",
        *,
        version: Literal[4, 6] = 4,
        timeout_s: float = 0.8,
    ) -> dict[tuple[str, str], bool]:
        """Tell for every ordered pair of workloads whether the first reaches the second."""
        chosen = tuple(names) or tuple(self.workloads)
        pairs = [(src, dst) for src in chosen for dst in chosen if src != dst]
        results = await asyncio.gather(
            *(self.reach(*pair, proto, version=version, timeout_s=timeout_s) for pair in pairs)
        )
        return dict(zip(pairs, results, strict=True))

    async def arp(self, workload: str, address: str) -> str:
        """Return the hardware address that answers a workload's ARP request, "" for none."""
        prober = await self.prober(workload)
        source = self.workloads[workload].ipv4
        answer = await prober.ask("arp", {"dst": address, "src": source}, timeout_s=1.5)
        return str(answer.get("mac", ""))

    async def mac_towards(self, workload: str) -> str:
        """Return the hardware address of the host's end of a workload's cable."""
        machine = self.workloads[workload]
        return await build.mac_of(self.namespace(machine.host), machine.port)

    @asynccontextmanager
    async def witness(self, host: str, src: str, dst: str) -> AsyncIterator[Witnessed]:
        """Count, while the block runs, the packets from one workload to another on a host's wire."""
        prober = await self.prober("fabric")
        wire = {"interface": f"v-{host}", "src": self.address(src), "dst": self.address(dst)}
        await prober.ask("witness-start", wire)
        witnessed = Witnessed()
        try:
            yield witnessed
        finally:
            answer = await prober.ask("witness-stop", wire)
            witnessed.packets = int(answer["count"])

    async def start_flow(self, src: str, dst: str, *, version: Literal[4, 6] = 4) -> None:
        """Begin a steady flow of numbered datagrams, 100 per second, that are echoed."""
        prober = await self.prober(src)
        address = self.address(dst, version)
        await prober.ask("flow-start", {"name": dst, "dst": address, "port": DEFAULT_PORT})

    async def stop_flow(self, src: str, dst: str) -> dict[str, Any]:
        """End a flow and return what was `sent`, `received`, and the `longest_gap_ms`."""
        prober = await self.prober(src)
        return await prober.ask("flow-stop", {"name": dst}, timeout_s=5.0)

    async def routes(self, host: str) -> tuple[routes.Route, ...]:
        """Return the IPv4 routing table of a host."""
        argv = ["ip", "-n", self.namespace(host), "-4", "-j", "route", "show"]
        return routes.parse(await netns.run(argv))

    async def rules(self, host: str) -> tuple[str, ...]:
        """Return the iptables rules of both families that a host's packets meet."""
        tools = ("iptables-nft-save", "ip6tables-nft-save")
        if self._backend == "legacy":
            tools = ("iptables-legacy-save", "ip6tables-legacy-save")
        return rules.enforced("".join([await self.run(host, [tool]) for tool in tools]))
