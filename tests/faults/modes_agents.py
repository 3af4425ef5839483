"""Hundreds of hosts that lose the broker together, and one that is slow: real links and feeds, no kernels."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from hopwall_cli.nats_server import NatsServer
from hopwall_dataplane.feed import AskAgain, Feed
from hopwall_model import topics
from hopwall_model.updates import HostBatch, NeedSet, SharedUpdate, SnapshotRequest
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.link import Link, Unavailable
from tests.faults.modes_store import one_of_each
from tests.faults.table import Mode, Result, Trial
from tests.support.ports import free_port

N_AGENTS = 500
_MOST_RSS_MIB = 600


class Agent:
    """One host without a kernel: what it would apply, it has."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.link = Link("dataplane")
        self.feed = Feed()
        self.n_asked = 0
        self._ask = asyncio.Event()
        self._ended: dict[str, Callable[[], Awaitable[None]]] = {}
        self._changed = asyncio.Event()

    async def run(self, url: str) -> None:
        """Follow calc until cancelled."""
        await self.link.connect(CommonSettings(nats_url=(url,)))
        subject = topics.host_batch_subject(self.host)
        await self.link.subscribe(topics.HOST_BATCH, subject, self._on_message)
        self.link.on_reconnect(self._again)
        self._ask.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_asking())
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._subscribe()

    async def _again(self) -> None:
        self._ask.set()

    def _on_message(self, message: HostBatch | SharedUpdate, _: str) -> None:
        found = (
            self.feed.on_batch(message)
            if isinstance(message, HostBatch)
            else self.feed.on_shared(message)
        )
        if any(isinstance(one, AskAgain) for one in found):
            self._ask.set()
        self._changed.set()

    async def _keep_asking(self) -> None:
        while True:
            await self._ask.wait()
            self._ask.clear()
            try:
                self.n_asked += 1
                self._on_message(await self.snapshot(), "")
            except Unavailable:
                self._ask.set()
                await asyncio.sleep(1.0)

    async def snapshot(self) -> HostBatch:
        """Ask calc for all that this host needs."""
        request = SnapshotRequest(host=self.host, reason="test")
        body = await self.link.request_chunked(
            topics.snapshot_subject(self.host), request, timeout_s=60
        )
        return topics.HOST_BATCH.decode(body)

    async def _subscribe(self) -> None:
        for scope in sorted(self.feed.needed - self._ended.keys()):
            subject = topics.shared_subject(scope)
            self._ended[scope] = await self.link.subscribe(topics.SHARED, subject, self._on_message)

    async def wrong(self) -> str:
        """Return what this host has otherwise than calc says now; "" when all is the same."""
        snapshot = await self.snapshot()
        wanted = {u.scope: u.version for u in snapshot.updates if isinstance(u, NeedSet)}
        if (self.feed.epoch, self.feed.versions) != (snapshot.epoch, wanted):
            return f"{self.host} has {self.feed.versions} of {self.feed.epoch}, calc says {wanted}"
        return ""


def _endpoint(i: int) -> dict[str, Any]:
    address = f"10.65.{i // 250}.{i % 250 + 1}/32"
    return {
        "kind": "WorkloadEndpoint",
        "metadata": {"name": f"w{i}", "namespace": "default", "labels": {"role": "web"}},
        "spec": {"node": f"h{i}", "interfaceName": f"tap{i}", "ipNetworks": [address]},
    }


def _policy(port: int) -> dict[str, Any]:
    rule = {"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}}
    return {
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"selector": "role == 'web'", "ingress": [rule]},
    }


async def _apply(socket: Path, items: Sequence[dict[str, Any]]) -> int:
    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(120):
        while True:
            async with session.post("http://api/v1/apply", json={"items": list(items)}) as answer:
                said = json.loads(await answer.read())
                if answer.status in (200, 202):
                    return max(int(item["resourceVersion"]) for item in said["items"])
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _agents(url: str, n: int) -> AsyncIterator[list[Agent]]:
    agents = [Agent(f"h{i}") for i in range(n)]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(agent.run(url)) for agent in agents]
        try:
            yield agents
        finally:
            for task in running:
                task.cancel()
    await asyncio.gather(*(agent.link.close() for agent in agents))


async def _all_have(agents: Sequence[Agent], revision: int, within_s: float = 120.0) -> None:
    async with asyncio.timeout(within_s):
        while any(agent.feed.received < revision for agent in agents):
            await asyncio.sleep(0.01)


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def _reconnecting(trial: Trial, n: int) -> Result:
    result = Result()
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    async with one_of_each(trial.folder, server) as (api, calc, socket):
        await _apply(socket, [_policy(80), *(_endpoint(i) for i in range(n))])
        async with _agents(server.url, n) as agents:
            await _all_have(agents, await _apply(socket, [_policy(81)]))
            while trial.goes_on():
                await server.stop()
                await server.start()
                since = clock.monotonic()
                revision = await _apply(socket, [_policy(1000 + result.tries)])
                await _all_have(agents, revision)
                result.recovery.append(clock.monotonic() - since)
                result.tries += 1
            for start in range(0, n, 50):
                some = agents[start : start + 50 : 5]
                result.faults += [w for w in await asyncio.gather(*(a.wrong() for a in some)) if w]
            sizes = {
                "api": _rss_mib(api.pid),
                "calc": _rss_mib(calc.pid),
                "nats": _rss_mib(server.pid),
            }
    result.faults += [
        f"{k} has grown to {v:.0f} MiB" for k, v in sizes.items() if v > _MOST_RSS_MIB
    ]
    told = ", ".join(f"{name} {size:.0f} MiB" for name, size in sizes.items())
    result.note = f"{n} hosts; until the last has a write made since; {told}"
    return result


async def reconnect(trial: Trial) -> Result:
    """Restart the broker under 500 hosts; until the last of them has a write of since then."""
    return await _reconnecting(trial, N_AGENTS)


async def reconnect_few(trial: Trial) -> Result:
    """Do the same with 50."""
    return await _reconnecting(trial, 50)


async def slow_host(trial: Trial) -> Result:
    """Let one of 20 hosts read nothing while much changes: the others are not slower, and it catches up."""
    result = Result()
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=trial.folder / "nats")
    delays: list[float] = []
    async with one_of_each(trial.folder, server) as (_, calc, socket):
        await _apply(socket, [_policy(80), *(_endpoint(i) for i in range(20))])
        async with _agents(server.url, 20) as agents:
            await _all_have(agents, await _apply(socket, [_policy(81)]))
            slow, others = agents[0], agents[1:]
            while trial.goes_on():
                transport = slow.link._nc._transport._io_reader._transport
                transport.pause_reading()
                for i in range(100):
                    since = clock.monotonic()
                    await _all_have(others, await _apply(socket, [_policy(1000 + i)]))
                    delays.append(clock.monotonic() - since)
                transport.resume_reading()
                since = clock.monotonic()
                await _all_have(agents, await _apply(socket, [_policy(80)]))
                result.recovery.append(clock.monotonic() - since)
                result.tries += 1
            result.faults += [w for w in [await slow.wrong()] if w]
            size = _rss_mib(calc.pid)
    result.note = f"others: {max(delays) * 1000:.0f} ms at most; calc {size:.0f} MiB"
    return result


NO_KERNELS = "hosts without kernels"
_HERE = "tests/faults/modes_agents.py"
RECONNECT_FEW = Mode("50 agents reconnect", "broker restarted", reconnect_few, ("B9",), NO_KERNELS)
SLOW = Mode(
    "slow host", "one of 20 reads nothing during 100 changes", slow_host, ("B3",), NO_KERNELS, 0.5,
    where=_HERE,
)  # fmt: skip
MODES = (
    Mode(
        "500 agents reconnect", "broker restarted under all", reconnect, ("B9",), NO_KERNELS,
        where=_HERE, takes_s=60.0,
    ),
    SLOW,
)  # fmt: skip
