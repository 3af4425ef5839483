"""A small cloud of real calc and real agents over a bus and kernels in memory, and what befalls it.

Everything follows from a number: the cloud, its changes, the faults and their moments. Whatever a host writes,
packets are asked at once (`judge`). Each step has chances of its own, so that one can be left out and the others
stay as they are (`shrink`).
"""

import asyncio
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import cast

from msgspec.structs import replace

from hopwall_calc.service import CalcService
from hopwall_calc.settings import CalcSettings
from hopwall_dataplane.agent import Agent
from hopwall_dataplane.metrics import Metrics
from hopwall_dataplane.outcome import Retry
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model import codec
from hopwall_model.events import ResourceRemoved, ResourceSet
from hopwall_model.resources import Key, Resource, WorkloadEndpoint, key_of
from hopwall_runtime.link import Link
from tests.proof.strategies import HOSTS, cloud_of
from tests.simulator.bus import Bus, FakeLink, Stream
from tests.simulator.judge import Fault, History, Probe, is_about, probes_of
from tests.simulator.kernels import Reader
from tests.simulator.virtual import VirtualLoop
from tests.simulator.waiter import Waiter
from tests.simulator.writers import write_and_judge
from tests.support import states
from tests.support.fake_kernel import FakeHost

LINKS = {f"tap-e{i}": LinkState(index=i + 2, up=True) for i in range(8)}
#: Packets asked when all that is written at once stands, and behind each element of it, of those it is about.
N_ASKED = 6
N_ASKED_BETWEEN = 5
N_PROBES = 60
N_STEPS = 12


class Killed(BaseException):
    """A process ends here, at once."""


@dataclass
class Host:
    """One host: its kernel, which stays, and its agent, which comes and goes."""

    name: str
    kernel: FakeHost
    link: FakeLink | None = None
    agent: Agent | None = None
    task: asyncio.Task[None] | None = None
    #: The agent dies at its write of this number from now; below 1: it does not.
    dies_at: int = 0
    #: The newest revision this kernel has been brought to; -1 before any.
    floor: int = -1
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        """Let packets read the kernel."""
        self.reader = Reader(self.kernel)


@dataclass
class World:
    """Its life, from a number."""

    number: int
    #: What a known-bad switch changes about each new agent.
    on_agent: Callable[[Agent], None] = lambda _: None
    #: Another one: calc's connection is that of a client that is not told what it missed.
    calc_watches: bool = False
    #: Another one: the stream stores what it is given, whatever it was to replace.
    compares: bool = True
    #: What another one puts in the product's place while the world lives.
    during: Callable[[], AbstractContextManager[object]] = nullcontext
    #: What is wrong with the history of writes of several replicas of the api.
    lost: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    #: Processes that ended by themselves.
    broken: list[str] = field(default_factory=list)
    n_asked: int = 0
    n_writes: int = 0
    #: What happened, for people: when, and what.
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make what is there from the beginning: the bus and the kernels."""
        self.chance = Random(self.number)
        #: Of what is asked: how much that is changes nothing of what happens.
        self._asking = Random(f"{self.number} asked")
        #: Of the step that is lived now.
        self._dice = Random(f"{self.number} cloud")
        self.bus = Bus(self.chance)
        self.history = History()
        self.state: dict[Key, Resource] = {}
        #: Exchanged whole when others come, never changed.
        self.probes: list[Probe] = []
        self._sorted: list[Probe] | None = None
        self._by_host: dict[str, list[Probe]] = {}
        #: Name → the endpoint that had it first.
        self._first: dict[str, WorkloadEndpoint] = {}
        self.waiter = Waiter(self.bus)
        self.hosts = {name: Host(name, FakeHost(name, LINKS)) for name in HOSTS}
        self._calc: asyncio.Task[None] | None = None
        self._calc_link: FakeLink | None = None
        for host in self.hosts.values():
            self._watch(host)

    def _watch(self, host: Host) -> None:
        def told() -> None:
            self.n_writes += 1
            host.dies_at -= 1
            if host.dies_at == 0:
                raise Killed

        host.kernel.told = told
        host.kernel.settled = lambda: self.ask(host, N_ASKED)
        host.kernel.passing = lambda element: self.ask(host, N_ASKED_BETWEEN, element.cidr)

    # ------------------------------------------------------------ processes

    def start_calc(self) -> None:
        """Start calc, or start it anew."""
        self.kill_calc()
        self._calc_link = FakeLink(self.bus, "calc")
        self._calc_link.is_watch = self.calc_watches
        service = CalcService(CalcSettings(), cast(Link, self._calc_link))
        self._calc = asyncio.get_running_loop().create_task(self._run_calc(service))

    async def _run_calc(self, service: CalcService) -> None:
        try:
            await service.run()
        except Exception as error:
            self.broken.append(f"calc: {error!r}")
            raise

    def kill_calc(self) -> None:
        """Kill calc."""
        if self._calc is not None and self._calc_link is not None:
            self._calc_link.close_now()
            self._calc.cancel()

    def start_agent(self, host: Host) -> None:
        """Start a host's agent, or start it anew, with no memory."""
        self.kill_agent(host)
        settings = DataplaneSettings(host=host.name, refresh_s=20.0, revoke_flows=False)
        host.link = FakeLink(self.bus, host.name)
        self.bus.links[host.link] = None
        agent = Agent(
            settings=settings,
            link=cast(Link, host.link),
            kernel=host.kernel.agent(),
            metrics=Metrics(),
            version="0",
        )
        self.on_agent(agent)
        host.agent = agent
        host.task = asyncio.get_running_loop().create_task(self._live(host, agent))

    async def _live(self, host: Host, agent: Agent) -> None:
        """Run an agent; when it was killed at a write, another one comes after a moment."""
        try:
            await agent.run()
        except* Killed:
            pass
        except* Exception as error:
            self.broken.append(f"the agent of {host.name}: {error.exceptions[0]!r}")
            raise
        if host.link is not None:
            host.link.close_now()
        await asyncio.sleep(self.chance.choice((0.01, 0.5, 5.0)))
        if host.agent is agent:
            host.task = None
            self.start_agent(host)

    def kill_agent(self, host: Host) -> None:
        """Kill a host's agent, between two writes."""
        host.dies_at = 0
        if host.task is not None and host.link is not None:
            host.link.close_now()
            host.task.cancel()

    # ------------------------------------------------------------ changes

    def put(self, resource: Resource) -> None:
        """Store a resource, as the api does."""
        self.state[key_of(resource)] = resource
        self._store(ResourceSet(resource=resource))

    def remove(self, key: Key) -> None:
        """Store its absence."""
        del self.state[key]
        self._store(ResourceRemoved(key=key))

    def _store(self, event: ResourceSet | ResourceRemoved) -> None:
        self.history.put(self.state)
        self._tell(f"revision {self.history.newest}: {_words(event)}")
        removed = isinstance(event, ResourceRemoved)
        self.waiter.wait_for(event.key, self.bus.append(event), removed=removed)
        if self._dice.random() < 0.5:
            more = probes_of(self.state, self._dice, 6)
            self.probes = [*self.probes, *more][-N_PROBES:]

    def settle_in(self) -> None:
        """Begin with a cloud that stands."""
        for name in HOSTS:
            self.put(states.host(name))
        for resource in self._another_cloud():
            self.put(resource)
        self.probes = probes_of(self.state, self._dice, N_PROBES // 2)

    def _another_cloud(self) -> list[Resource]:
        cloud = [self._placed(resource) for resource in cloud_of(self._dice)]
        return self._dice.sample(cloud, len(cloud))

    def _tell(self, what: str) -> None:
        self.told.append(f"{asyncio.get_running_loop().time():8.3f} s  {what}")

    def _placed(self, resource: Resource) -> Resource:
        """Keep an endpoint where its name was first: a move is a matter of its own."""
        if not isinstance(resource, WorkloadEndpoint):
            return resource
        first = self._first.setdefault(resource.metadata.name, resource)
        metadata = replace(resource.metadata, namespace=first.metadata.namespace)
        return replace(
            resource, metadata=metadata, spec=replace(resource.spec, node=first.spec.node)
        )

    def change(self) -> None:
        """Change one thing, or a few at once."""
        for resource in self._another_cloud()[: self._dice.choice((1, 1, 1, 2, 4))]:
            self.put(resource)
        gone = [key for key in self.state if key.kind != "Node"]
        if gone and self._dice.random() < 0.3:
            self.remove(self._dice.choice(gone))

    # ------------------------------------------------------------ asking

    def ask(self, host: Host, n_asked: int, about: str = "") -> None:
        """Ask some packets at a host, now: any, or those from or to a network."""
        self._note_floor(host)
        if host.floor < 0:
            return  # a kernel nobody has written to yet is another chapter
        mine = self._at(host)
        if about:
            mine = [probe for probe in mine if is_about(probe.flow, about)]
        if mine:
            self._ask(host, self._asking.sample(mine, min(n_asked, len(mine))))

    def _at(self, host: Host) -> list[Probe]:
        """Return the probes at a host."""
        if self._sorted is not self.probes:
            self._sorted = self.probes
            self._by_host = {name: [p for p in self.probes if p.host == name] for name in HOSTS}
        return self._by_host[host.name]

    def _note_floor(self, host: Host) -> None:
        if host.agent is not None and host.agent.progress.epoch:
            host.floor = max(host.floor, host.agent.progress.revision)

    def _ask(self, host: Host, probes: list[Probe]) -> None:
        moment = host.reader.now()
        floor = max(host.floor, self.waiter.until)
        for probe in probes:
            found = moment.verdict(probe)
            if found is None:
                continue
            self.n_asked += 1
            verdict, trace = found
            by_nobody = trace[-1].startswith(("hw-from", "hw-to")) if trace else False
            if not self.history.explains(probe, verdict, floor, by_nobody=by_nobody):
                newest = self.history.newest
                self.faults.append(Fault(probe, verdict, floor, newest, trace))
                self._tell(f"FAULT: {self.faults[-1].words}")

    # ------------------------------------------------------------ what befalls it

    async def befall(self) -> None:
        """Let one thing happen, of those that happen; often nothing."""
        host = self.hosts[self._dice.choice(HOSTS)]
        thing = self._dice.choice(_BEFALLS)
        if thing is not World._nothing:
            self._tell(f"{thing.__name__.strip('_').replace('_', ' ')} ({host.name})")
        await thing(self, host)

    async def _nothing(self, _host: Host) -> None:
        pass

    async def _calc_starts_anew(self, _host: Host) -> None:
        if self._dice.random() < 0.5:
            await self._two_of_calc()
        else:
            self.start_calc()

    async def _two_of_calc(self) -> None:
        """Let another calc begin beside one that hears nothing of it but answers; then one of both goes."""
        assert self._calc_link is not None
        assert self._calc is not None
        old_link, old = self._calc_link, self._calc
        old_link.sleep()
        self._calc_link = self._calc = None
        self.start_calc()
        new_link, new = self._calc_link, self._calc
        assert new_link is not None
        assert new is not None
        if self._dice.random() < 0.7:
            self.change()
        await asyncio.sleep(self._dice.choice((0.05, 2.0, 12.0)))
        old_link.wake()
        await asyncio.sleep(self._dice.choice((0.01, 1.0)))
        gone, self._calc = (new, old) if self._dice.random() < 0.5 else (old, new)
        gone_link, self._calc_link = (new_link, old_link) if gone is new else (old_link, new_link)
        gone_link.close_now()
        gone.cancel()

    async def _agent_starts_anew(self, host: Host) -> None:
        self.start_agent(host)

    async def _agent_dies_at_a_write(self, host: Host) -> None:
        host.dies_at = self._dice.randint(1, 12)

    async def _host_is_cut_off(self, host: Host) -> None:
        await self._cut(host.link)

    async def _calc_is_cut_off(self, _host: Host) -> None:
        await self._cut(self._calc_link)

    async def _messages_get_lost(self, host: Host) -> None:
        if host.link is not None:
            host.link.loses = self._dice.randint(1, 4)

    async def _messages_come_twice_and_in_disorder(self, host: Host) -> None:
        if host.link is not None:
            host.link.disorders = self._dice.randint(2, 10)

    async def _server_starts_anew(self, _host: Host) -> None:
        self.bus.restart()

    async def _api_starts_anew(self, _host: Host) -> None:
        self.waiter.start()

    async def _server_api_and_agent_are_away(self, host: Host) -> None:
        """Let nobody but calc and the other hosts know of some changes."""
        self.bus.restart()
        self.waiter.kill()
        self.kill_agent(host)
        for _ in range(2):
            self.change()
            await asyncio.sleep(self._dice.choice((0.05, 0.3)))
        self.waiter.start()
        await asyncio.sleep(self._dice.choice((0.0, 0.01, 0.3, 2.0)))
        self.start_agent(host)

    async def _tables_fail_once(self, host: Host) -> None:
        for restore in host.kernel.restores.values():
            restore.fail_next = [None, Retry("later")]

    async def _cut(self, link: FakeLink | None) -> None:
        if link is None:
            return
        link.cut()
        if self._dice.random() < 0.7:
            self.change()
        await asyncio.sleep(self._dice.choice((0.05, 2.0, 12.0)))
        link.heal()

    async def _wrong_server(self, _host: Host) -> None:
        """Put an empty store in the place of ours for a while."""
        ours = self.bus.stream
        self.bus.replace_stream(Stream("empty"))
        await asyncio.sleep(self._dice.choice((0.2, 3.0, 15.0)))
        self.bus.replace_stream(ours)

    async def live(self, steps: Iterable[int]) -> None:
        """Live these steps, then in peace, until nothing changes any more."""
        self.settle_in()
        self.start_calc()
        self.waiter.start()
        for host in self.hosts.values():
            self.start_agent(host)
        await asyncio.sleep(3.0)
        for step in steps:
            self._dice = Random(f"{self.number} step {step}")
            await self._step()
        for host in self.hosts.values():
            host.dies_at = 0
        await asyncio.sleep(30.0)
        for host in self.hosts.values():
            # An agent without memory cannot know why addresses are gone: somebody looks, and lets it go on.
            if host.agent is not None and host.agent.guard.held is not None:
                host.agent.guard.release("")
        await asyncio.sleep(60.0)
        for host in self.hosts.values():
            self._note_floor(host)
            self._ask(host, self._at(host))
        await self._write()

    async def _write(self) -> None:
        judged = await write_and_judge(Random(f"{self.number} writes"), compares=self.compares)
        self.lost = [*judged.faults, *["an acknowledged write is not stored"] * judged.lost]

    async def _step(self) -> None:
        dice = self._dice
        self.change()
        await asyncio.sleep(dice.choice((0.0, 0.002, 0.05, 1.0)))
        await self.befall()
        await asyncio.sleep(dice.choice((0.0, 0.01, 0.3, 4.0)))

    async def end(self) -> None:
        """End every process."""
        self.kill_calc()
        self.waiter.kill()
        for host in self.hosts.values():
            self.kill_agent(host)
        await asyncio.sleep(0)

    def behind(self) -> list[str]:
        """Name the hosts that do not enforce the newest revision."""
        return [name for name, host in self.hosts.items() if host.floor < self.history.newest]


_BEFALLS = (
    World._nothing,
    World._calc_starts_anew,
    World._agent_starts_anew,
    World._agent_dies_at_a_write,
    World._agent_dies_at_a_write,
    World._host_is_cut_off,
    World._calc_is_cut_off,
    World._messages_get_lost,
    World._messages_come_twice_and_in_disorder,
    World._server_starts_anew,
    World._api_starts_anew,
    World._server_api_and_agent_are_away,
    World._tables_fail_once,
    World._wrong_server,
)


def live(world: World, steps: Iterable[int] = range(N_STEPS)) -> World:
    """Let a world live from its beginning to its end."""

    async def whole() -> None:
        try:
            await world.live(steps)
        finally:
            await world.end()

    with VirtualLoop() as loop, _by_number(world.number), world.during():
        loop.run_until_complete(whole())
    return world


@contextmanager
def _by_number(number: int) -> Iterator[None]:
    """Let chance follow from the number, and calc neither collect nor freeze.

    Each start would walk what earlier worlds left, and keep it for ever.
    """
    urandom, collect, freeze = os.urandom, gc.collect, gc.freeze
    os.urandom = Random(f"{number} system").randbytes
    gc.collect, gc.freeze = lambda *_: 0, lambda: None
    try:
        yield
    finally:
        os.urandom, gc.collect, gc.freeze = urandom, collect, freeze


def _words(event: ResourceSet | ResourceRemoved) -> str:
    if isinstance(event, ResourceRemoved):
        return f"{_name(event.key)} is removed"
    resource = event.resource
    labels = f" {resource.metadata.labels}" if resource.metadata.labels else ""
    return f"{_name(key_of(resource))}{labels} {codec.encode(resource.spec).decode()}"


def _name(key: Key) -> str:
    return f"{key.kind} {key.namespace or '_'}/{key.name}"
