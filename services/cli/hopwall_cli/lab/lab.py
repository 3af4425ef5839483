"""A running lab: build it, start the services in it, probe it, and leave nothing behind.

    async with Lab("demo", hosts=3) as lab:
        await lab.add(Workload(name="vm21", host="h2", ipv4="10.65.0.21"))
        assert await lab.reach("vm21", "vm22", "tcp")

Owner:  namespaces `hw-<lab>-…` and the run folder; both are swept before and after, so an earlier crash
        costs nothing.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from hopwall_cli.client import Client, ClientError, read_token
from hopwall_cli.lab import bgp, build, declared, netns, routes, rules
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Routing, Topology
from hopwall_cli.lab.birds import Birds, installed
from hopwall_cli.lab.evidence import noted
from hopwall_cli.lab.prober import Prober, reached
from hopwall_cli.lab.responder import DEFAULT_PORT
from hopwall_cli.lab.run_folder import Description, RunFolder
from hopwall_cli.lab.services import Services
from hopwall_cli.lab.topology import Host, LabError, Workload
from hopwall_cli.lab.witness import Witnessed
from hopwall_cli.nats_server import command as nats_command
from hopwall_cli.pki.folder import PkiFolder
from hopwall_cli.supervisor import Child, Say
from hopwall_cli.supervisor import end as end_process
from hopwall_model.permissions import User
from hopwall_model.topics import Role

Proto = Literal["icmp", "tcp", "udp"]
NATS_LISTEN = f"{topo.PREFIX4}.1:4222"
#: Until every BGP session is up: BIRD tries again after 5 s where the other side was not there yet.
_SESSIONS_S = 120.0
_ROUTES_S = 60.0


def quiet(_: str) -> None:
    """Say nothing."""


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
        routing: Routing = "direct",
        topology: Topology = "mesh",
        agent_flags: Sequence[str] = (),
        say: Say = quiet,
    ) -> None:
        """Describe the lab; with `services=False` it is only namespaces and cables.

        Every process has its own credential, as in `hopwall pki`, and `client` the admin's; not so without
        `secure`. `topology` says who speaks BGP with whom, where `routing` is bgp; `agent_flags` go to every
        dataplane process.

        Errors: LabError for a bad name or number of hosts.
        """
        self.folder = RunFolder(name)
        self.name = name
        self.routing = routing
        self.topology = topology
        self.hosts = {h.name: bgp.as_declared(h, topology) for h in topo.hosts(hosts)}
        #: Machines that reflect routes and carry no workloads.
        self.reflectors = {
            r.name: r for r in (bgp.reflectors(topology) if routing == "bgp" else ())
        }
        self.workloads: dict[str, Workload] = {}
        self.birds = Birds(self.folder.path)
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
        self._services = Services(say)

    @property
    def services(self) -> dict[str, Child]:
        """The processes by name: nats, api, calc, dataplane-<machine>, bird-<machine>."""
        return self._services.children

    @property
    def machines(self) -> dict[str, Host]:
        """Hosts and reflectors."""
        return {**self.reflectors, **self.hosts}

    async def __aenter__(self) -> Self:
        """Sweep what a crash left, build the lab, and wait until the API is ready."""
        if os.geteuid() != 0:
            raise LabError("a lab needs root: it makes network namespaces.")
        self.folder.take()
        self._stack.callback(self.folder.release)
        try:
            async with noted(self.folder, self._services, self.birds):
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
        await netns.together(*(build.host(self.name, host) for host in self.machines.values()))
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
        security = await self._make_pki()
        nats = nats_command(listen=NATS_LISTEN, folder=self.folder.path / "nats", security=security)
        self._keep("nats", "fabric", nats)
        api = ["--listen", f"127.0.0.1:8080,unix:{self.folder.api_socket}"]
        self._keep("api", "fabric", self._service(User(Role.API), api))
        self._keep("calc", "fabric", self._service(User(Role.CALC), ["--routing", self.routing]))
        if self.routing == "bgp":
            await self._start_bgp()
        for machine in self.machines:
            self._start_machine(machine)
        await self._services.until(self.client.ready(timeout_s=120.0))
        pools = [("lab-v4", topo.POOL4), ("lab-v6", topo.POOL6)]
        items = [topo.resource("IPPool", name, {"cidr": cidr}) for name, cidr in pools]
        if self.routing == "bgp":
            items += bgp.declarations(self.topology)
        items += [machine.resource() for machine in self.machines.values()]
        await self.client.apply(items)
        await self._services.until(self._settle(*self.machines))
        self.describe()

    async def _make_pki(self) -> Path | None:
        """Make the credentials of a secured lab; return what nats-server includes."""
        if self.pki is None:
            return None
        address = NATS_LISTEN.rpartition(":")[0]
        await asyncio.to_thread(self.pki.make, hosts=list(self.machines), addresses=[address])
        await self.client.close()
        self.client = Client(self.folder.server, token=read_token(str(self.pki.admin_token)))
        return self.pki.security_conf

    async def _admit(self, host: str) -> None:
        """Give a host that joins a credential, and let nats-server learn of it."""
        if self.pki is not None:
            await asyncio.to_thread(self.pki.issue, [host])
            self.services["nats"].signal(signal.SIGHUP)

    async def _start_bgp(self) -> None:
        """Start what BGP needs beside the machines: in a fabric its router, with what lies behind it."""
        installed()
        if self.topology != "fabric":
            return
        await build.outside(self.name, bgp.OUTSIDE_ADDRESSES.values())
        self._keep(f"bird-{bgp.ROUTER}", "fabric", self.birds.router_command(bgp.router()))

    def _start_machine(self, name: str) -> None:
        flags = ["--host", name, "--backend", self._backend]
        flags += ["--state-dir", str(self.folder.path / f"state-{name}"), *self._agent_flags]
        if self.routing == "bgp":
            self._keep(f"bird-{name}", name, self.birds.command(name))
            flags += self.birds.agent_flags(name)
        self._keep(f"dataplane-{name}", name, self._service(User(Role.HOST, name), flags))

    async def _settle(self, *machines: str) -> None:
        """Wait until all BGP sessions of these machines are up."""
        if self.routing == "direct":
            return
        wanted = {name: 2 * len(self.peers(name)) for name in machines}
        await self.birds.until_established(wanted, _SESSIONS_S)

    def peers(self, machine: str) -> list[str]:
        """Return with whom a machine speaks BGP, once for each family; reflectors first."""
        return bgp.peers(self.topology, machine, self.machines)

    def _service(self, user: User, flags: list[str]) -> list[str]:
        module = [sys.executable, "-m", f"hopwall_{user.service}"]
        secrets = self.pki.flags(user) if self.pki is not None else []
        return [*module, "--nats-url", f"nats://{NATS_LISTEN}", *secrets, *flags]

    def _keep(self, name: str, place: str, argv: list[str]) -> None:
        self._services.keep(name, self.namespace(place), argv, log=self.folder.log(name))

    async def _stop_services(self) -> None:
        await self.client.close()  # first: an API that ends waits for its callers
        await self._services.end_all(last="nats")

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
                hosts={host.name: host.ipv4 for host in self.machines.values()},
                workloads={w.name: f"{w.ipv4} on {w.host}" for w in self.workloads.values()},
                processes=processes,
            )
        )

    # ---------------------------------------------------------------- hosts that come and go

    async def join(self, name: str = "") -> Host:
        """Add a host to the running lab; return when it is declared and its BGP sessions are up.

        Errors: LabError when the lab has a host of this name, has no more room, or the sessions do not come
                up; nothing of the host is left then.
        """
        host = bgp.as_declared(topo.next_host(self.hosts, name), self.topology)
        await declared.withdraw(self.client, host.name)  # what one of this name left when it died
        self.hosts[host.name] = host
        try:
            await build.host(self.name, host)
            await self._admit(host.name)
            self._start_machine(host.name)
            await self.client.apply([host.resource()])
            await self._services.until(self._settle(host.name))
        except (LabError, ClientError):
            await self._remove_machine(host.name)
            await declared.withdraw(self.client, host.name)
            raise
        self.describe()
        return host

    async def leave(self, name: str) -> None:
        """Take a host out of the running lab in good order: what is declared of it, then itself.

        Of one that has crashed, what was declared goes.

        Errors: LabError when there is neither such a machine nor anything declared of it.
        """
        alive = name in self.machines
        if not alive and not await declared.known(self.client, name):
            raise self._no_machine(name)
        await declared.withdraw(self.client, name, wait="programmed" if alive else "")
        if alive:
            await self._remove_machine(name)

    async def crash(self, name: str) -> None:
        """Take the power from a host or a reflector: nobody is told, and all that was on it is gone.

        Errors: LabError when the lab has no such machine.
        """
        if name not in self.machines:
            raise self._no_machine(name)
        await build.unplug(self.name, name)  # first, so that nothing has the time to say good-bye
        for service in (f"bird-{name}", f"dataplane-{name}"):
            if child := self.services.get(service):
                child.signal(signal.SIGKILL)
        await self._remove_machine(name)

    def _no_machine(self, name: str) -> LabError:
        return LabError(f"lab {self.name} has no host and no reflector {name}.")

    async def _remove_machine(self, name: str) -> None:
        await self._services.end(f"bird-{name}", f"dataplane-{name}")
        if prober := self._probers.pop(name, None):
            await prober.close()
        on_it = [w.name for w in self.workloads.values() if w.host == name]
        await netns.together(*(self.remove(workload) for workload in on_it))
        await build.remove_host(self.name, name)
        self.birds.forget(name)
        self.hosts.pop(name, None)
        self.reflectors.pop(name, None)
        self.describe()

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

    async def assign(self, name: str, host: str, **more: Any) -> Workload:
        """Return a workload with addresses of its host's blocks (see `add`, which makes it)."""
        return await declared.assigned(self.client, name, host, **more)

    async def declare(self, *names: str, wait: str = "programmed") -> dict[str, Any]:
        """Tell the API of workloads (all, when none is named), in one call; return its answer."""
        made = [self.workloads[name].resource() for name in names or tuple(self.workloads)]
        return await self.client.apply(made, wait=wait)

    # ---------------------------------------------------------------- looking

    def namespace(self, place: str) -> str:
        """Return the namespace of a host, of a workload, or of the fabric.

        Errors: LabError when the lab has nothing of that name.
        """
        if place in self.machines:
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
        far = [self._probers[dst]] if dst in self._probers else self._probers.values()
        probe = {"dst": self.address(dst, version), "port": port}
        return await reached(prober, far, proto, probe, timeout_s)

    def address(self, place: str, version: Literal[4, 6] = 4) -> str:
        """Return the address of a workload or a machine; an address is returned as it is."""
        machine = self.workloads.get(place) or {**self.machines, bgp.ROUTER: topo.ROUTER}.get(place)
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
        return await (await self.prober(src)).ask("flow-stop", {"name": dst}, timeout_s=20.0)

    async def flow_so_far(self, src: str, dst: str) -> dict[str, Any]:
        """Return the same of a flow that goes on, and `last_at`: when its last answer came, by the monotonic clock."""
        return await (await self.prober(src)).ask("flow-look", {"name": dst})

    async def routes(self, host: str) -> tuple[routes.Route, ...]:
        """Return the IPv4 routing table of a host."""
        argv = ["ip", "-n", self.namespace(host), "-4", "-j", "route", "show"]
        return routes.parse(await netns.run(argv))

    async def learnt(self, host: str, *, version: Literal[4, 6] = 4) -> dict[str, str]:
        """Return what BIRD wrote into a host's table: destination → next hop, "" for a black hole."""
        argv = ["ip", "-n", self.namespace(host), f"-{version}", "-j", "route", "show"]
        return routes.learnt(await netns.run([*argv, "proto", "bird"]))

    async def until_learnt(
        self, wanted: Mapping[str, str], *hosts: str, version: Literal[4, 6] = 4
    ) -> None:
        """Wait until these hosts (all, when none is named) have these routes by BIRD.

        Errors: LabError when they do not come in time.
        """
        names = hosts or tuple(self.hosts)
        try:
            async with asyncio.timeout(_ROUTES_S):
                for name in names:
                    while True:
                        if wanted.items() <= (await self.learnt(name, version=version)).items():
                            break
                        await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise LabError(f"routes do not come to {', '.join(names)}: {dict(wanted)}.") from error

    async def rules(self, host: str) -> tuple[str, ...]:
        """Return the iptables rules of both families that a host's packets meet."""
        tools = ("iptables-nft-save", "ip6tables-nft-save")
        if self._backend == "legacy":
            tools = ("iptables-legacy-save", "ip6tables-legacy-save")
        return rules.enforced("".join([await self.run(host, [tool]) for tool in tools]))
