"""A small cloud with a data path, watched: every packet between its workloads is held against what is legal.

    h1: a (x)  d (y)  e (x; declared and withdrawn)      h2: b (x)  c (y)

x may talk to x and y to y. What changes meanwhile, one change after the other: a door from y to a, guests that b
lets in, how a selector is spelled (nothing may be noticed of it), and whether e is declared.
"""

import asyncio
import itertools
import json
import math
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Self

from hopwall_cli.client import ClientError, Problem
from hopwall_cli.demo import reached
from hopwall_cli.kinds import kind_named
from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.bgp import Routing, Topology
from hopwall_cli.lab.lab import Lab
from hopwall_model.permissions import User
from hopwall_model.resources import Resource
from hopwall_model.validate import admit
from hopwall_runtime import clock
from tests.faults.legal import Legal, with_resource, without_resource
from tests.faults.streams import Stream, raw_in, socket_in
from tests.proof.cloud import Cloud as State
from tests.proof.cloud import Flow

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
Family = Literal[4, 6]
FAMILIES: tuple[Family, ...] = (4, 6)
PLACES = {"a": ("h1", "x"), "b": ("h2", "x"), "c": ("h2", "y"), "d": ("h1", "y"), "e": ("h1", "x")}
#: From, to, and a port of its own: always open, always closed, or as the changes say.
PAIRS = (
    ("a", "b", 7001), ("b", "a", 7002), ("d", "c", 7003), ("a", "c", 7004),
    ("c", "a", 7100), ("c", "b", 7200), ("e", "b", 7005), ("a", "e", 7006),
)  # fmt: skip
CHANGING = PAIRS[4:]
DOOR_PORT, GUEST_PORT = 7100, 7200
#: Flows that come once are forgotten after this time: there are hundreds a second.
_FORGOTTEN_S = 2
#: How long a change may take in which nothing is broken any more.
RECOVERED_S = 180.0
_WEP = kind_named("wep")


def document(kind: str, name: str, spec: Json, *, labels: dict[str, str] | None = None) -> Json:
    """Return a resource as the API takes it."""
    return topo.resource(kind, name, spec, labels=labels)


def admitted(item: Json) -> Resource:
    """Return the resource that the API makes of a document."""
    return admit(json.dumps(item).encode())


def within(customer: str, spelling: str = "") -> Json:
    """Return the policy that lets a customer's workloads talk with each other."""
    source = spelling or f"customer == '{customer}'"
    return document(
        "GlobalNetworkPolicy",
        f"within-{customer}",
        {
            "order": 100,
            "selector": f"customer == '{customer}'",
            "types": ["Ingress", "Egress"],
            "ingress": [{"action": "Allow", "source": {"selector": source}}],
            "egress": [{"action": "Allow"}],
        },
    )


def lets_in(name: str, port: int, source: str) -> Json:
    """Return a policy that lets datagrams to one port of x in."""
    rule = {
        "action": "Allow",
        "protocol": "UDP",
        "source": {"selector": source},
        "destination": {"ports": [port]},
    }
    spec = {"order": 50, "selector": "customer == 'x'", "types": ["Ingress"], "ingress": [rule]}
    return document("GlobalNetworkPolicy", name, spec)


class Cloud(Lab):
    """The lab, with processes that can be killed, frozen, held back and exchanged for known-bad ones."""

    def __init__(
        self,
        name: str = "faults",
        *,
        backend: str = "nft",
        routing: Routing = "bgp",
        topology: Topology = "mesh",
        switch: tuple[str, str] = ("", ""),
        own_lock: bool = False,
    ) -> None:
        """Describe it; `switch` is a service and its known-bad way (`known_bad`).

        With `own_lock` the agents have a lock of xtables for themselves, which nobody else on this machine waits for.
        """
        super().__init__(
            name, hosts=2, backend=backend, secure=False, routing=routing, topology=topology
        )
        self.killed: Counter[str] = Counter()
        self._switch = switch
        self._own_lock = own_lock
        self._argv: dict[str, tuple[str, list[str]]] = {}

    async def __aenter__(self) -> Self:
        """Build it, and bring it to its first state."""
        await super().__aenter__()
        try:
            await self._settle_in()
        except BaseException:
            await super().__aexit__(None, None, None)
            raise
        return self

    async def _settle_in(self) -> None:
        setting = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
        for host in self.hosts:
            await self.run(host, ["sh", "-c", f"echo {_FORGOTTEN_S} > {setting}"])
        for name, (host, customer) in PLACES.items():
            await self.add(await self.assign(name, host, labels={"customer": customer}))
        items = [within("x"), within("y"), lets_in("guests", GUEST_PORT, "role == 'guest'")]
        # Shut, and there from the beginning: an endpoint whose list of policies changes may be closed meanwhile.
        items.append(lets_in("door", DOOR_PORT + 1, "customer == 'y'"))
        items += [self.workloads[name].resource() for name in PLACES if name != "e"]
        assert reached(await self.client.apply(items, wait="programmed", timeout_s=60.0))
        self.state: State = tuple(admitted(item) for item in items)

    # ---------------------------------------------------------------- processes

    def _service(self, user: User, flags: list[str]) -> list[str]:
        argv = super()._service(user, flags)
        service, switch = self._switch
        if user.service == service:
            argv = [sys.executable, "-m", "tests.faults.known_bad", switch, *argv[2:]]
        if not self._own_lock or user.service != "dataplane":
            return argv
        self.lock.touch()
        Path("/run/xtables.lock").touch()
        # In the agent's own mount namespace, as `ip netns exec` has made it.
        mount = 'mount --bind "$0" /run/xtables.lock && exec "$@"'
        return ["sh", "-c", mount, str(self.lock), *argv]

    @property
    def lock(self) -> Path:
        """The agents' own lock of xtables."""
        return self.folder.path / "xtables.lock"

    def _keep(self, name: str, place: str, argv: list[str]) -> None:
        self._argv[name] = (place, argv)
        super()._keep(name, place, argv)

    def kill(self, name: str) -> bool:
        """Kill a process, if it runs; tell whether it did."""
        child = self.services[name]
        if not child.pid:
            return False
        child.signal(signal.SIGKILL)
        self.killed[name] += 1
        return True

    async def take_away(self, name: str) -> None:
        """Kill a process, and do not start it again."""
        self.kill(name)
        await self._services.end(name)
        self.killed.pop(name, None)

    def bring_back(self, name: str) -> None:
        """Start a process again that was taken away."""
        place, argv = self._argv[name]
        super()._keep(name, place, argv)

    def beside(self, name: str, like: str) -> None:
        """Start another process like one that runs."""
        place, argv = self._argv[like]
        self._keep(name, place, argv)

    async def exchange(self, name: str, *prefix: str) -> None:
        """Run a process anew behind another command (`env …`); behind none: as it was."""
        await self.take_away(name)
        place, argv = self._argv[name]
        super()._keep(name, place, [*prefix, *argv])

    def ended_by_themselves(self) -> list[str]:
        """Return the processes that were started more often than they were killed."""
        return [
            f"{name} ended by itself {child.starts - 1 - self.killed[name]} times"
            for name, child in self.services.items()
            if child.starts > 1 + self.killed[name]
        ]

    # ---------------------------------------------------------------- packets

    def flow(self, source: str, target: str, port: int, family: Family) -> Flow:
        """Return a probe as the documents speak of it."""
        return Flow(
            source=self.address(source, family),
            destination=self.address(target, family),
            protocol=17,
            source_port=40000,
            destination_port=port,
            sender=f"{topo.NAMESPACE}/{source}",
        )

    def streams(self, legal: Legal) -> list[Stream]:
        """Open a stream for every pair and family."""
        found = []
        for (source, target, port), family in itertools.product(PAIRS, FAMILIES):
            flow = self.flow(source, target, port, family)
            fresh = (source, target, port) in CHANGING
            near = (raw_in if fresh else socket_in)(self.namespace(source), family)
            far = socket_in(self.namespace(target), family, flow.destination, port)
            name = f"{source} to {target}:{port} v{family}"
            address = (flow.destination, port)
            found.append(Stream(name, _asking(legal, flow), near, far, address, fresh=fresh))
        return found


def _asking(legal: Legal, flow: Flow) -> Callable[[float, float], frozenset[bool]]:
    return lambda since, until: legal.may(flow, since, until)


class Changes:
    """Changes one thing after the other, and tells the model when each began and when it was settled."""

    def __init__(self, cloud: Cloud, legal: Legal, chance: random.Random) -> None:
        self.faults: list[str] = []
        self.n_settled = 0
        self._cloud = cloud
        self._legal = legal
        self._chance = chance
        self._state = cloud.state
        self._is: dict[str, bool] = {}
        self._n = 0
        #: Held while a change is under way.
        self._busy = asyncio.Lock()
        self._stopped_at = math.inf
        #: When the last settled change had begun, and when it was settled.
        self._last = (0.0, 0.0)

    @asynccontextmanager
    async def running(self, pause_s: float = 0.2) -> AsyncIterator["Changes"]:
        """Change something all the time while the block runs; at its end the last change is settled."""
        self._stopped_at = math.inf
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run(pause_s))
            try:
                yield self
            finally:
                self._stopped_at = min(self._stopped_at, clock.monotonic())

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Change nothing while the block runs: what was begun is settled, and exactly one state is legal."""
        async with self._busy:
            yield

    async def recovered(self, since: float, within_s: float = RECOVERED_S) -> float:
        """Wait until a change that began after a moment is enforced; return how long after it."""
        try:
            async with asyncio.timeout(within_s):
                while self._last[0] < since:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self._stopped_at = -math.inf  # it would go on for ever
            raise NotRecovered(f"no change is enforced {within_s:.0f} s after the fault") from None
        return self._last[1] - since

    async def _run(self, pause_s: float) -> None:
        while self._stopped_at == math.inf:
            async with self._busy:
                await self.one()
            await asyncio.sleep(self._chance.uniform(0, 2 * pause_s))

    async def one(self, kind: str = "") -> None:
        """Make one change and wait until it is enforced everywhere."""
        kinds: dict[str, Callable[[bool], tuple[State, Callable[[], Awaitable[Json]]]]] = {
            "door": self._door, "guests": self._guests, "spelling": self._spelling, "e": self._e,
        }  # fmt: skip
        self._n += 1
        chosen = kind or self._chance.choice(sorted(kinds))
        self._is[chosen] = not self._is.get(chosen, False)
        state, write = kinds[chosen](self._is[chosen])
        begun = clock.monotonic()
        number = self._legal.begin(begun, state, chosen)
        self._state = state
        if await self._insist(write):
            self._last = (begun, clock.monotonic())
            self._legal.settle(number, self._last[1])
            self.n_settled += 1

    def went_back(self, state: State) -> None:
        """Say that a store with an earlier state is in place; the next change settles what follows from it."""
        self._legal.begin(clock.monotonic(), state, "an older store")
        self._state = state

    @property
    def state(self) -> State:
        """What is wanted now."""
        return self._state

    # ---------------------------------------------------------------- what changes

    def _put(self, *items: Json) -> tuple[State, Callable[[], Awaitable[Json]]]:
        state = with_resource(self._state, *(admitted(item) for item in items))
        return state, lambda: self._apply(*items)

    def _door(self, on: bool) -> tuple[State, Callable[[], Awaitable[Json]]]:
        port = DOOR_PORT if on else DOOR_PORT + 1
        return self._put(lets_in("door", port, "customer == 'y'"))

    def _guests(self, on: bool) -> tuple[State, Callable[[], Awaitable[Json]]]:
        c = self._cloud.workloads["c"]
        nets = [f"{c.ipv4}/32", f"{c.ipv6}/128"] if on else ["192.0.2.0/24"]
        spec = {"nets": nets}
        return self._put(document("GlobalNetworkSet", "guests", spec, labels={"role": "guest"}))

    def _spelling(self, on: bool) -> tuple[State, Callable[[], Awaitable[Json]]]:
        word = f"customer in {{'x', 'n{self._n}'}}" if on else ""
        return self._put(within("x", word))

    def _e(self, on: bool) -> tuple[State, Callable[[], Awaitable[Json]]]:
        item = self._cloud.workloads["e"].resource()
        if on:
            return self._put(item)
        return without_resource(self._state, admitted(item)), self._withdraw

    async def _apply(self, *items: Json) -> Json:
        return await self._cloud.client.apply(items, wait="programmed", timeout_s=5.0)

    async def _withdraw(self) -> Json:
        try:
            return await self._cloud.client.delete(
                _WEP, namespace=topo.NAMESPACE, name="e", wait="programmed", timeout_s=5.0
            )
        except Problem as problem:
            if problem.status != 404:
                raise
        # It is gone, and who enforces that is not known: both hosts enforce this, which is later.
        return await self._apply(within("y", f"customer in {{'y', 'n{self._n}'}}"))

    async def _insist(self, write: Callable[[], Awaitable[Json]]) -> bool:
        """Write until it is said to be enforced; return False when the changes are to end first."""
        while True:
            try:
                if reached(await write()):
                    return True
            except Problem as problem:
                if problem.status < 500 and problem.status != 429:
                    self.faults.append(f"a change was refused: {problem}")
            except ClientError:
                pass
            if clock.monotonic() > self._stopped_at + RECOVERED_S:
                self.faults.append("the last change was never enforced")
                return False
            await asyncio.sleep(0.05)


class NotRecovered(Exception):
    """What was broken is whole again, and the cloud is not."""
