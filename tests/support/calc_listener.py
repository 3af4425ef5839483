"""Whoever hears everything that calc says, over a real NATS, and stores what it is to say it of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from hopwall_calc.service import CalcService
from hopwall_calc.settings import CalcSettings
from hopwall_cli.nats_server import NatsServer
from hopwall_model import codec, topics
from hopwall_model.events import Event, ResourceSet
from hopwall_model.resources import Resource
from hopwall_model.status import CalcStatus, Rejected
from hopwall_model.topics import Topic
from hopwall_model.updates import HostBatch, SharedUpdate, SnapshotRequest
from hopwall_runtime.link import Append, Link
from tests.support.fold import FoldedHost
from tests.support.oracle import Oracle
from tests.support.states import State

T = TypeVar("T")


class Listener:
    """Hears everything that calc says, and plays the API."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.shared: list[SharedUpdate] = []
        self.batches: list[HostBatch] = []
        self.statuses: list[CalcStatus] = []
        self.rejected: list[Rejected] = []
        self.log: list[Any] = []
        self._last: dict[str, int] = {}

    async def start(self) -> None:
        """Subscribe to all of it."""
        kept: tuple[tuple[Topic[Any], list[Any]], ...] = (
            (topics.SHARED, self.shared),
            (topics.HOST_BATCH, self.batches),
            (topics.CALC_STATUS, self.statuses),
            (topics.REJECTED, self.rejected),
        )
        for topic, where in kept:
            await self.link.subscribe(topic, topic.pattern, self._keep(where))
        await self.link.flush()

    @asynccontextmanager
    async def in_order(self) -> AsyncIterator[list[HostBatch | CalcStatus]]:
        """Give what is said to hosts and of them while the block runs, as it is said: on one subscription."""
        heard: list[HostBatch | CalcStatus] = []

        async def note(message: Any) -> None:
            if message.subject.startswith(topics.HOST_BATCH.pattern.removesuffix("*")):
                heard.append(topics.HOST_BATCH.decode(message.data))
            elif message.subject == topics.CALC_STATUS.pattern:
                heard.append(topics.CALC_STATUS.decode(message.data))

        subscription = await self.link._nc.subscribe("hopwall.>", cb=note)
        await self.link.flush()
        yield heard
        await subscription.unsubscribe()

    def _keep(self, kept: list[Any]) -> Callable[[Any, str], None]:
        def keep(value: Any, subject: str) -> None:
            del subject
            kept.append(value)
            self.log.append(value)

        return keep

    async def write(self, *events: Event) -> int:
        """Store events one by one; return the last revision."""
        revision = 0
        for event in events:
            subject = topics.event_subject(event.key)
            write = Append(
                subject=subject,
                body=codec.encode(event),
                expected=self._last.get(subject, 0),
                headers={},
            )
            [revision] = await self.link.append([write])
            self._last[subject] = revision
        return revision

    async def put(self, *resources: Resource) -> int:
        """Store resources; return the last revision."""
        return await self.write(*(ResourceSet(resource=r) for r in resources))

    async def resolved(self, revision: int, epoch: str | None = None) -> CalcStatus:
        """Wait until calc has resolved the revision, in an epoch that is not the one given."""
        return await eventually(
            lambda: next(
                (s for s in self.statuses if s.revision >= revision and s.epoch != epoch), None
            )
        )

    def told(self, host: str) -> int:
        """Return the revision of the last batch that a host was sent."""
        return max((b.revision for b in self.batches if b.host == host), default=0)

    async def snapshot(self, host: str) -> HostBatch:
        """Ask as a host does."""
        body = await self.link.request_chunked(
            topics.snapshot_subject(host), SnapshotRequest(host=host), timeout_s=60
        )
        return topics.HOST_BATCH.decode(body)

    async def host(self, name: str) -> FoldedHost:
        """Return a host that has just asked for its snapshot."""
        snapshot = await self.snapshot(name)
        host = FoldedHost(name, lambda _: snapshot)
        host.on_batch(snapshot)
        return host


async def eventually(question: Callable[[], T | None]) -> T:
    """Wait until the question has an answer, and return it."""
    async with asyncio.timeout(60):
        while not (answer := question()):
            await asyncio.sleep(0.01)
    return answer


@asynccontextmanager
async def running(nats_server: NatsServer, **more: Any) -> AsyncIterator[CalcService]:
    """Run a calc service."""
    given = {"heartbeat_s": 0.2, "validate": True, **more}
    settings = CalcSettings(nats_url=(nats_server.url,), **given)
    service = CalcService(settings, Link("calc"))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(service.run())
        try:
            yield service
        finally:
            task.cancel()


async def assert_hosts(listener: Listener, state: State) -> None:
    """Compare each host's snapshot with the oracle."""
    oracle = Oracle(state.resources)
    for name in oracle.hosts():
        assert (await listener.host(name)).state() == oracle.state(name)
