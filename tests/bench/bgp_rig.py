"""A lab whose kernels are watched while routes come, hosts come and go, and BIRDs are killed.

Many workloads are interfaces of one host without anybody behind them: what is timed are their routes.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from hopwall_cli.demo import reached
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Topology
from hopwall_cli.lab.lab import Lab
from hopwall_cli.lab.topology import Workload
from hopwall_dataplane.bgp.control import Control
from hopwall_dataplane.bgp.process import start_file
from hopwall_runtime import clock
from tests.support.route_watch import AGENT, RouteWatch
from tests.support.routed import routed, routes_of, wire

N_ENDPOINTS = 100
HOME, NEWCOMER = "h2", "h4"
FABRIC = "fabric"
#: Between endpoints, so that each is a change of its own; and how long is looked for what goes after a return.
_PACE_S, _LOOK_S = 0.05, 2.0
_BLOCK = {4: 26, 6: 122}
#: A BIRD that is back waits at most a minute for its peers.
_RECOVERED_S = 90.0


@dataclass
class Times:
    """Milliseconds from one moment of an endpoint to its routes in the last of the other hosts' kernels.

    Shape: `from_answer` is 0 where they were there before the answer to the `wait=programmed` call was;
           `answer` is how long that took.
    """

    answer: list[float] = field(default_factory=list)
    from_kernel: list[float] = field(default_factory=list)
    from_answer: list[float] = field(default_factory=list)
    from_call: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Kill:
    """What became of the routes and of a running flow when one BIRD was killed.

    Shape: `lost_away` went before its sessions were up again, `lost_back` in the seconds after: "route on host";
           `longest_s` is how long the one that was away for longest was.
    """

    who: str
    n_routes: int
    lost_away: tuple[str, ...]
    lost_back: tuple[str, ...]
    longest_s: float
    back_s: float
    sent: int
    lost_packets: int


def blocks_of(workload: Workload) -> set[str]:
    """Return the blocks of a workload's addresses."""
    addresses = (ip_address(one) for one in (workload.ipv4, workload.ipv6))
    return {str(ip_network((one, _BLOCK[one.version]), strict=False)) for one in addresses}


class Rig:
    """A running lab of three hosts, and what its kernels say of routes."""

    def __init__(self, lab: Lab, stack: AsyncExitStack) -> None:
        self.lab = lab
        self._stack = stack
        self.watches: dict[str, RouteWatch] = {}
        self.agent = stack.enter_context(RouteWatch(lab.namespace(HOME), AGENT))
        #: The fabric's router has a kernel too, and learns as the hosts do.
        for place in [*lab.hosts, *([FABRIC] if lab.topology == "fabric" else [])]:
            self.watches[place] = stack.enter_context(RouteWatch(lab.namespace(place)))

    def others(self, *but: str) -> list[RouteWatch]:
        """Return the watches of all hosts that were there from the start but these."""
        return [watch for host, watch in self.watches.items() if host not in but]

    async def put(self, host: str) -> Workload:
        """Give a host a real workload in a block of its own."""
        workload = await self.lab.assign(f"w{host}", host, profiles=("open",))
        await self.lab.add(workload)
        assert reached(await self.lab.declare(workload.name))
        return workload

    # ---------------------------------------------------------------- endpoints

    async def endpoints(self) -> Times:
        """Declare endpoints one after the other, and time their routes."""
        workloads = routed(HOME, N_ENDPOINTS)
        await wire(self.lab, workloads)
        times = Times()
        for workload in workloads:
            await asyncio.sleep(_PACE_S)
            await self._endpoint(workload, times)
        return times

    async def _endpoint(self, workload: Workload, times: Times) -> None:
        networks = routes_of(workload)
        called_s = clock.monotonic()
        answer = await self.lab.client.apply([workload.resource()], wait="programmed")
        answered_s = clock.monotonic()
        assert reached(answer), answer
        programmed_s = await self.agent.until(networks)
        there_s = max([await watch.until(networks) for watch in self.others(HOME)])
        times.answer.append((answered_s - called_s) * 1000)
        times.from_kernel.append((there_s - programmed_s) * 1000)
        times.from_answer.append(max(0.0, there_s - answered_s) * 1000)
        times.from_call.append((there_s - called_s) * 1000)

    # ---------------------------------------------------------------- hosts that come and go

    async def join(self) -> tuple[float, float]:
        """Let a host join: seconds until it has all routes; seconds until its first block is everywhere."""
        lab = self.lab
        wanted = set().union(*(watch.standing for watch in self.others()))
        namespace = topo.host_namespace(lab.name, NEWCOMER)
        began_s = clock.monotonic()
        async with asyncio.TaskGroup() as tasks:
            joining = tasks.create_task(lab.join(NEWCOMER))
            with await _watched(namespace) as watch:
                await joining
                has_all_s = await watch.until(wanted) - began_s
        assigned_s = clock.monotonic()
        workload = await self.put(NEWCOMER)
        known = [await watch.until(blocks_of(workload)) for watch in self.others()]
        return has_all_s, max(known) - assigned_s

    async def leave(self) -> float:
        """Let the newcomer leave in good order: seconds until nobody has its routes."""
        blocks = blocks_of(self.lab.workloads[f"w{NEWCOMER}"])
        began_s = clock.monotonic()
        await self.lab.leave(NEWCOMER)
        return await self._gone_s(blocks) - began_s

    async def lose_power(self, *where: str) -> float:
        """Take the newcomer's power: seconds until nobody has its routes, or nobody there; then it is taken out."""
        blocks = blocks_of(self.lab.workloads[f"w{NEWCOMER}"])
        began_s = clock.monotonic()
        await self.lab.crash(NEWCOMER)
        took_s = await self._gone_s(blocks, *where) - began_s
        await self.lab.leave(NEWCOMER)
        return took_s

    async def _gone_s(self, networks: Iterable[str], *where: str) -> float:
        gone = set(networks)
        those = [self.watches[place] for place in where or self.watches]
        return max([await watch.until_gone(gone, timeout_s=60.0) for watch in those])

    # ---------------------------------------------------------------- BIRDs that are killed

    async def kill(self, *who: str) -> Kill:
        """Kill BIRDs, all at once, while a flow runs, and watch every kernel until a while after they are back."""
        lab = self.lab
        children = [lab.services[f"bird-{one}"] for one in who]
        old = [child.pid for child in children]
        await lab.start_flow("wh1", "wh3")
        n_routes = sum(len(watch.standing) for watch in self.watches.values())
        began_s = clock.monotonic()
        for child in children:
            child.signal(signal.SIGKILL)
        async with asyncio.timeout(_RECOVERED_S):
            while any(child.pid in (0, *old) for child in children):
                await asyncio.sleep(0.02)
            for one in who:
                while len(await lab.birds.established(one)) != 2 * len(lab.peers(one)):
                    await asyncio.sleep(0.02)
            back_s = clock.monotonic()
            for one in who:
                while await lab.birds.recovering(one):
                    await asyncio.sleep(0.05)
        await asyncio.sleep(_LOOK_S)
        gone, late = self._gone_since(began_s), self._gone_since(back_s)
        away = [watch.away_since(began_s) for watch in self.watches.values()]
        flow = await lab.stop_flow("wh1", "wh3")
        return Kill(
            who=" and ".join(who),
            n_routes=n_routes,
            lost_away=tuple(sorted(gone - late)),
            lost_back=tuple(sorted(late)),
            longest_s=max((s for routes in away for s in routes.values()), default=0.0),
            back_s=back_s - began_s,
            sent=flow["sent"],
            lost_packets=flow["sent"] - flow["received"],
        )

    async def news_after_crash(self, number: int) -> float:
        """Kill the home host's BIRD, and declare one more endpoint: seconds until its routes are everywhere."""
        workload = routed(HOME, N_ENDPOINTS + number)[-1]
        await wire(self.lab, [workload])
        began_s = clock.monotonic()
        self.lab.services[f"bird-{HOME}"].signal(signal.SIGKILL)
        assert reached(await self.lab.client.apply([workload.resource()], wait="programmed"))
        wanted = routes_of(workload)
        there = [await watch.until(wanted, timeout_s=120) for watch in self.others(HOME)]
        return max(there) - began_s

    async def until_forgotten(self) -> None:
        """Wait until the home host's agent has given up on a peer."""
        laid = start_file(self.lab.birds.place(HOME) / "bird.conf")
        async with asyncio.timeout(60):
            while not laid.exists():
                await asyncio.sleep(0.1)

    def _gone_since(self, began_s: float) -> set[str]:
        return {
            f"{network} on {host}"
            for host, watch in self.watches.items()
            for network in watch.gone_since(began_s)
        }

    async def until_bfd(self, who: str, wanted: int) -> None:
        """Wait until a BIRD has this many BFD sessions up."""
        async with asyncio.timeout(30):
            async with Control(self.lab.birds.socket(who)) as bird:
                while (await bird.ask("show bfd sessions")).text.count(" Up ") < wanted:
                    await asyncio.sleep(0.1)


async def _watched(namespace: str) -> RouteWatch:
    """Watch a namespace as soon as it is there."""
    async with asyncio.timeout(30):
        while True:
            try:
                return RouteWatch(namespace)
            except OSError:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(topology: Topology) -> AsyncIterator[Rig]:
    """Run a lab of three hosts with a workload each, and watch it."""
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(
            Lab("benchbgp", hosts=3, routing="bgp", topology=topology)
        )
        await lab.client.apply([topo.open_profile("open")])
        rig = Rig(lab, stack)
        placed = [await rig.put(host) for host in lab.hosts]
        for workload in placed:
            for watch in rig.others(workload.host):
                await watch.until(blocks_of(workload))
        yield rig
