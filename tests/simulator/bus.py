"""A NATS in memory, as far as calc and agents use it: the events stream, last statuses, plain messages.

Messages of one connection stay in order and come late by chance, unless a world wants worse; who is cut off misses
what is published meanwhile, and is told when it is back, as the client library does.
Source: NATS core (at most once, ordered per publisher and subscriber); docs/design/wire.md.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

from hopwall_model import codec
from hopwall_model.events import Event
from hopwall_model.topics import Topic
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.follower import CaughtUp, Followed, Record, Reset
from hopwall_runtime.link import Unavailable

T = TypeVar("T")
Handle = Callable[[bytes, str], None]
_LATE_S = (0.0002, 0.001, 0.001, 0.003, 0.02)
_STATUSES = "hopwall.status."


@dataclass
class Stream:
    """The events: what was stored, in order. Its place is the revision."""

    name: str
    events: list[Event] = field(default_factory=list)

    def snapshot(self) -> list[Record]:
        """Return the last event of each resource, in the stream's order."""
        last = {event.key: revision for revision, event in enumerate(self.events, 1)}
        return [self.record(revision) for revision in sorted(last.values())]

    def record(self, revision: int) -> Record:
        """Return one event as it is delivered."""
        return Record(revision=revision, event=self.events[revision - 1], headers={})


class Bus:
    """The server."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.stream = Stream("first")
        self.statuses: dict[str, bytes] = {}
        #: In the order in which they came, whatever they are called.
        self.links: dict[FakeLink, None] = {}

    def append(self, event: Event) -> int:
        """Store an event and hand it to who follows; return its revision."""
        self.stream.events.append(event)
        revision = len(self.stream.events)
        for link in list(self.links):
            link.on_stored(self.stream.record(revision))
        return revision

    def replace_stream(self, stream: Stream) -> None:
        """Put another store in its place: every connection breaks and comes back."""
        self.stream = stream
        self.restart()

    def restart(self) -> None:
        """Break every connection; what is kept in memory is gone."""
        self.statuses.clear()
        for link in list(self.links):
            link.cut()
            link.heal()

    def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Hand a message to every subscriber that is connected."""
        if subject.startswith(_STATUSES):
            self.statuses[subject] = body
        for link in list(self.links):
            link.arrive(subject, body, reply)


class FakeLink:
    """One connection: what the product's link offers, over the bus."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self.rejected_messages = 0
        self.max_payload = 8 * 1024 * 1024
        #: Messages that get lost on the way though the connection stands (a slow consumer).
        self.loses = 0
        #: Messages that come twice, and past each other.
        self.disorders = 0
        #: The known-bad client: who was away is not told, and goes on with what comes next.
        self.is_watch = False
        #: What this client does not hear for now, though it speaks and answers: nothing where it is None.
        self._unheard: list[tuple[str, bytes, str] | Record] | None = None
        self._bus = bus
        self._closed = False
        self._cut = False
        self._handlers: list[tuple[str, Callable[[bytes, str, str], None]]] = []
        self._listeners: list[Callable[[], Awaitable[None]]] = []
        self._stored: asyncio.Queue[Record | None] = asyncio.Queue()
        self._last_at = 0.0
        self._n_inboxes = 0
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def watch(self) -> None:
        """Wait for ever: this client never gives up."""
        await asyncio.Event().wait()

    # ------------------------------------------------------------ the bus's side

    def arrive(self, subject: str, body: bytes, reply: str) -> None:
        """Deliver a message soon, behind those that are under way."""
        if self._cut or not any(_matches(pattern, subject) for pattern, _ in self._handlers):
            return
        if self._unheard is not None and not reply:
            self._unheard.append((subject, body, reply))
            return
        if self.loses and not subject.startswith("_INBOX"):
            self.loses -= 1
            return
        loop = asyncio.get_running_loop()
        if self.disorders:
            self.disorders -= 1
            for _ in range(2):
                late = self._bus.chance.choice(_LATE_S)
                loop.call_later(late, self._deliver, subject, body, reply)
            return
        self._last_at = max(self._last_at, loop.time() + self._bus.chance.choice(_LATE_S))
        loop.call_at(self._last_at, self._deliver, subject, body, reply)

    def _deliver(self, subject: str, body: bytes, reply: str) -> None:
        for pattern, handler in list(self._handlers):
            if not self._closed and not self._cut and _matches(pattern, subject):
                handler(body, subject, reply)

    def on_stored(self, record: Record) -> None:
        """Hand an event to who follows."""
        if self._unheard is not None:
            self._unheard.append(record)
        elif not self._cut:
            self._stored.put_nowait(record)

    def sleep(self) -> None:
        """Hear nothing but requests, from now on."""
        self._unheard = []

    def wake(self) -> None:
        """Hear all that came meanwhile, and what comes."""
        unheard, self._unheard = self._unheard or [], None
        for one in unheard:
            if isinstance(one, Record):
                self.on_stored(one)
            else:
                self.arrive(*one)

    def cut(self) -> None:
        """Lose the connection."""
        self._cut = True

    def heal(self) -> None:
        """Be connected again, and say so."""
        self._cut = False
        if self.is_watch:
            return
        self._stored.put_nowait(None)
        for listener in self._listeners:
            self._spawn(listener())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def close_now(self) -> None:
        """End at once, as when the process is killed."""
        self._closed = True
        self._bus.links.pop(self, None)
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------ the product's side

    @property
    def connected(self) -> bool:
        """Whether the server is reachable."""
        return not self._cut

    @property
    def settled(self) -> bool:
        """Whether nothing that was followed is in doubt."""
        return not self._cut

    @property
    def store(self) -> str:
        """The id of the events stream."""
        return self._bus.stream.name

    async def connect(self, _settings: CommonSettings) -> None:
        """Appear on the bus."""
        self._bus.links[self] = None

    async def close(self) -> None:
        """Leave the bus."""
        self.close_now()

    def on_reconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Call the listener after every reconnect."""
        self._listeners.append(listener)

    async def publish(self, subject: str, value: Any) -> None:
        """Publish a value."""
        await self.publish_encoded(subject, codec.encode(value))

    async def publish_encoded(self, subject: str, body: bytes) -> None:
        """Publish what is encoded already; lost while the connection is."""
        if not self._cut:
            self._bus.publish(subject, body)

    async def flush(self) -> None:
        """Have nothing to wait for."""

    async def subscribe(
        self, topic: Topic[T], subject: str, handler: Callable[[T, str], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call `handler(value, subject)` for each message."""
        return self._handle(subject, lambda body, at, _: handler(topic.decode(body), at))

    def _handle(
        self, subject: str, handler: Callable[[bytes, str, str], None]
    ) -> Callable[[], Awaitable[None]]:
        entry = (subject, handler)
        self._handlers.append(entry)

        async def end() -> None:
            if entry in self._handlers:
                self._handlers.remove(entry)

        return end

    async def reject(self, _subject: str, _reason: str) -> None:
        """Count what could not be understood."""
        self.rejected_messages += 1

    async def serve_chunked(
        self,
        topic: Topic[T],
        subject: str,
        answer: Callable[[T, str], bytes | Awaitable[bytes | None] | None],
    ) -> Callable[[], Awaitable[None]]:
        """Answer requests."""

        def on_request(body: bytes, at: str, reply: str) -> None:
            given = answer(topic.decode(body), at)
            assert isinstance(given, bytes | None), "only what is answered at once is simulated"
            if given and not self._cut:
                self._bus.publish(reply, given)

        return self._handle(subject, on_request)

    async def request_chunked(self, subject: str, value: Any, *, timeout_s: float) -> bytes:
        """Ask and return the answer."""
        self._n_inboxes += 1
        inbox = f"_INBOX.{self.name}.{self._n_inboxes}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_answer(body: bytes, _at: str, _reply: str) -> None:
            if not answer.done():
                answer.set_result(body)

        end = self._handle(inbox, on_answer)
        try:
            if not self._cut:
                self._bus.publish(subject, codec.encode(value), inbox)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise Unavailable(f"no whole answer on {subject}") from error
        finally:
            await end()

    async def ensure_streams(self) -> None:
        """Have them already."""

    async def follow(self) -> AsyncIterator[list[Followed]]:
        """Yield the stream for ever; any doubt begins again with Reset."""
        while True:
            await self._until_connected()
            while not self._stored.empty():
                self._stored.get_nowait()
            stream = self._bus.stream
            records = stream.snapshot()
            revision = len(stream.events)
            yield [Reset(stream.name)]
            await asyncio.sleep(self._bus.chance.choice(_LATE_S))
            yield [*records, CaughtUp(revision)]
            while (record := await self._stored.get()) is not None:
                if record.revision > revision:
                    yield [record]

    async def _until_connected(self) -> None:
        while self._cut:
            await asyncio.sleep(0.1)

    async def last_status(self, topic: Topic[T]) -> AsyncIterator[tuple[T, str]]:
        """Yield the last message of each subject of the topic, and the subject."""
        for subject, body in sorted(self._bus.statuses.items()):
            if _matches(topic.pattern, subject):
                yield topic.decode(body), subject


@lru_cache(maxsize=100_000)
def _matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject is of a pattern. Source: NATS subjects (`*` one token, `>` the rest)."""
    if pattern == subject:
        return True
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or token not in ("*", given[index]):
            return False
    return len(wanted) == len(given)
