"""The NATS link of a service: with the modules it calls, the only importer of nats.

What it adds to the client, each for a reason (experiments in docs/design/wire.md):

- it never gives up reconnecting, and notices a dead server within seconds, not minutes;
- the events stream is followed so that nothing is missed silently (`follower`);
- a message that does not decode is counted, reported on `hopwall.rejected.<service>` and skipped;
- values larger than a message travel as numbered chunks.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from hopwall_model import codec, topics
from hopwall_model.codec import CodecError
from hopwall_model.events import Event
from hopwall_model.status import Rejected
from hopwall_model.topics import Topic
from hopwall_runtime import clock, streams, words
from hopwall_runtime.appender import (
    MAX_BATCH,
    Append,
    Appender,
    Conflict,
    Full,
    LinkError,
    Unavailable,
    Unconfirmed,
)
from hopwall_runtime.client import Client
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.credentials import credentials
from hopwall_runtime.follower import (
    CaughtUp,
    DoubtError,
    Followed,
    Follower,
    Record,
    Unreadable,
    follower_config,
    last_good,
)
from hopwall_runtime.history import History
from hopwall_runtime.upkeep import Upkeep, asked

__all__ = [
    "MAX_BATCH",
    "Append",
    "Conflict",
    "Full",
    "Link",
    "LinkError",
    "Unavailable",
    "Unconfirmed",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Largest body of one chunk; the server's default max_payload is 1 MiB and headers count.
CHUNK_BYTES = 512 * 1024
_DRAIN_S = 2.0
#: A client that is seen lost so often in a row is.
_LOST_LOOKS, _LOOK_S = 3, 2.0
#: Within so much time those who lost a server together try the next.
_SPREAD_S = 0.5
_HDR_PART = "Hopwall-Part"


class Link:
    """One connection of one service."""

    def __init__(self, service: str, host: str = "") -> None:
        """Name the service, and for the agent of a host which: its reports and its inboxes bear the name."""
        self._service = topics.service_name(service, host)
        self._inbox_prefix = topics.inbox_prefix(service, host)
        self._nc: Any = Client()
        self._js: Any = None
        self.rejected_messages = 0
        self._servers = ""
        self._last_error = ""
        self._settings = CommonSettings()
        self._closing = False
        self._appender = Appender(self._nc, None)
        self._follower: Follower | None = None
        self._history = History()
        self._settled = False
        self._reconnect_listeners: list[Callable[[], Awaitable[None]]] = []

    # ------------------------------------------------------------ connection

    async def connect(self, settings: CommonSettings) -> None:
        """Connect, waiting as long as it takes for a server to appear.

        Errors: ConfigError when a file of the settings cannot be used.
        """
        self._servers, self._settings = ", ".join(settings.nats_url), settings
        options: dict[str, Any] = {
            "servers": list(settings.nats_url),
            "name": f"hopwall-{self._service}",
            "max_reconnect_attempts": -1,
            # Not all at once: hundreds of clients lose a server at the same moment.
            "reconnect_time_wait": 0.25 + _chance() * 0.5,
            "connect_timeout": 5,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "inbox_prefix": self._inbox_prefix.encode(),
            "error_cb": self._on_error,
            "reconnected_cb": self._on_reconnected,
            "disconnected_cb": self._on_disconnected,
            "pending_size": 64 * 1024 * 1024,
        }
        options |= credentials(settings)
        while True:
            try:
                await self._nc.connect(**options, allow_reconnect=True)
                if self._nc.is_connected:
                    break
                # The client takes whatever comes where the PONG should for an answer, a PING of a server that
                # waited for us too, and would then be about to connect for ever.
                # Shielded: its `close` would take the end of this service for the end of its own task.
                await asyncio.shield(self._nc.close())
                error: Exception = Unavailable("the server did not greet as it should")
            except (NatsError, OSError, RuntimeError) as fault:
                error = fault
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # Told to end in the moment of a failure: `wait_for` of Python 3.11 then tells of the failure alone.
                raise asyncio.CancelledError
            await self._on_error(error)
            await asyncio.sleep(0.5)
            self._nc = Client()
        self._js = self._nc.jetstream(timeout=5)
        self._appender = Appender(self._nc, self._js)

    async def close(self) -> None:
        """Flush what was published and close, within seconds also when the server has just gone."""
        self._closing = True
        if self._js is None and not self._nc.is_connecting:
            return  # it never came so far
        try:
            try:
                if self._nc.is_connected:
                    async with asyncio.timeout(_DRAIN_S):
                        await self._nc.drain()
            finally:
                if not self._nc.is_closed:
                    await self._nc.close()
        except (NatsError, OSError, RuntimeError, TimeoutError) as error:
            # uvloop says RuntimeError of writing to what has just closed.
            log.info("NATS: not all was flushed at the end: %s", error)

    async def watch(self) -> None:
        """Return never while the client can do its work or tries to; for a task of the service.

        The client's own tasks end by an error it does not expect (uvloop says RuntimeError where it knows of
        OSError), and it then stays as it is. Its subscriptions cannot be handed to another client: the
        service ends, and who keeps it starts it again.

        Errors: LinkError.
        """
        n_lost = 0
        while n_lost < _LOST_LOOKS:
            await asyncio.sleep(_LOOK_S)
            n_lost = n_lost + 1 if _lost(self._nc) else 0
        raise LinkError(f"the client of NATS at {self._servers} has given up: starting anew")

    @property
    def connected(self) -> bool:
        """Whether the server is reachable as far as the client knows."""
        return bool(self._nc.is_connected)

    @property
    def max_payload(self) -> int:
        """The most bytes of one message that the server takes."""
        return int(self._nc.max_payload)

    def on_reconnect(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Call the listener after every reconnect: messages may have been missed."""
        self._reconnect_listeners.append(listener)

    async def _on_error(self, error: Exception) -> None:
        """Log an error once; the client tries again several times a second, for as long as it takes."""
        text = str(error) or type(error).__name__
        if text != self._last_error:
            self._last_error = text
            again = "" if "permissions violation" in text else "; trying again"
            log.warning("NATS at %s: %s%s", self._servers, text, again)

    @property
    def settled(self) -> bool:
        """Whether what was followed is surely the stream: nothing is in doubt since the last snapshot."""
        return self._settled

    @property
    def silent_s(self) -> float:
        """How long ago what was followed was surely the stream; some seconds are usual."""
        return clock.monotonic() - self._history.heard_at

    async def _on_disconnected(self) -> None:
        self._settled = False
        if not self._closing:
            log.warning("NATS: disconnected")
            await asyncio.sleep(_chance() * _SPREAD_S)

    async def _on_reconnected(self) -> None:
        self._last_error = ""
        log.info("NATS: connected again")
        if self._follower is not None:
            self._follower.doubt()
        for listener in self._reconnect_listeners:
            await listener()

    # ------------------------------------------------------------ plain messages

    async def publish(self, subject: str, value: Any) -> None:
        """Publish a value, at most once, to whoever listens now.

        Errors: Unavailable when the connection is closed or its buffer is full.
        """
        await self.publish_encoded(subject, codec.encode(value))

    async def publish_encoded(self, subject: str, body: bytes) -> None:
        """Publish what is encoded already; otherwise as `publish`."""
        try:
            await self._nc.publish(subject, body)
        except NatsError as error:
            raise Unavailable(f"cannot publish on {subject}: {error}") from error

    async def flush(self) -> None:
        """Wait until the server has everything published and subscribed to so far.

        Two round trips: nats-py 2.16 writes the first PING past what waits to be written.
        """
        try:
            await self._nc.flush(timeout=5)
            await self._nc.flush(timeout=5)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the server does not answer: {error}") from error

    async def subscribe(
        self, topic: Topic[T], subject: str, handler: Callable[[T, str], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call `handler(value, subject)` for each message; return what ends the subscription.

        The handler is synchronous and quick: it folds or queues.
        """

        async def on_message(message: Msg) -> None:
            try:
                value = topic.decode(message.data)
            except CodecError as error:
                await self.reject(message.subject, str(error))
                return
            handler(value, message.subject)

        subscription = await self._nc.subscribe(
            subject, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=256 * 1024 * 1024
        )

        async def end() -> None:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

        return end

    async def reject(self, subject: str, reason: str) -> None:
        """Count and report a message that could not be understood; the caller skips it."""
        self.rejected_messages += 1
        log.warning("rejected a message on %s: %s", subject, reason)
        note = Rejected(service=self._service, subject=subject, reason=reason, at=clock.now_text())
        if self._nc.is_connected:
            await self._nc.publish(topics.rejected_subject(self._service), codec.encode(note))

    # ------------------------------------------------------------ large requests

    async def serve_chunked(
        self,
        topic: Topic[T],
        subject: str,
        answer: Callable[[T, str], bytes | Awaitable[bytes | None] | None],
    ) -> Callable[[], Awaitable[None]]:
        """Answer each `answer(request, subject)` with bytes of any size, in numbered chunks.

        An answer that is awaited holds up the requests behind it, so no more than one is worked on.

        Empty leaves it to another who serves them. None refuses: the request is reported as rejected and not answered.
        What a caller may ask is bound to the subject its credential lets it use, so the body must not be believed
        against it. Nor is the reply subject: what is no inbox of who asks would make us say what it may not say itself.
        """

        async def on_request(message: Msg) -> None:
            try:
                request = topic.decode(message.data)
            except CodecError as error:
                await self.reject(message.subject, str(error))
                return
            if not message.reply.startswith(topics.inboxes_of_asker(message.subject)):
                await self.reject(message.subject, "the answer is to go to no inbox of who asks")
                return
            given = answer(request, message.subject)
            body = await given if isinstance(given, Awaitable) else given
            if body is None:
                await self.reject(message.subject, "the request does not belong on this subject")
                return
            n_parts = -(-len(body) // CHUNK_BYTES)
            for part in range(n_parts):
                await self._nc.publish(
                    message.reply,
                    body[part * CHUNK_BYTES : (part + 1) * CHUNK_BYTES],
                    headers={_HDR_PART: f"{part + 1}/{n_parts}"},
                )

        subscription = await self._nc.subscribe(subject, cb=on_request)

        async def end() -> None:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

        return end

    async def request_chunked(self, subject: str, value: Any, *, timeout_s: float) -> bytes:
        """Ask and return the whole answer.

        Errors: Unavailable when nobody answers, or a chunk is missing, within the time.
        """
        inbox = topics.inboxes_of_asker(subject) + self._nc.new_inbox().partition(".")[2]
        subscription = await self._nc.subscribe(inbox, pending_bytes_limit=-1)
        parts: list[bytes] = []
        try:
            await self._nc.publish(subject, codec.encode(value), reply=inbox)
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await subscription.next_msg(timeout=timeout_s)
                    headers = message.headers or {}
                    part, _, n_parts = headers.get(_HDR_PART, "0/0").partition("/")
                    if int(part) != len(parts) + 1:
                        raise Unavailable(f"no service answers on {subject}")
                    parts.append(message.data)
                    if part == n_parts:
                        return b"".join(parts)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"no whole answer on {subject} within {timeout_s} s") from error
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    # ------------------------------------------------------------ the events stream

    async def ensure_streams(self) -> None:
        """Create the events and status streams where they are missing.

        All but calc, which may not, amend what is not as the settings say. The status stream is in memory: it is missing after a restart of the server.

        Errors: Unavailable.
        """
        wanted = streams.wanted_of(self._settings, clustered=self.cluster != "")
        try:
            await streams.ensure(self._js, wanted, amends=self._service != topics.Role.CALC)
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"cannot make the streams as they should be: {error}") from error

    @property
    def cluster(self) -> str:
        """The name of the cluster the server is in; "" for a single server."""
        return str(self._nc._server_info.get("cluster") or "")

    @property
    def server(self) -> tuple[str, str]:
        """The id of the server that is connected, and its host name or address; "" while there is none."""
        url = self._nc.connected_url
        return str(self._nc._server_info.get("server_id") or ""), (
            url.hostname if url else ""
        ) or ""

    @property
    def store(self) -> str:
        """The id minted with the events stream that is followed; "" before the first look."""
        return self._history.store

    async def append(self, writes: Sequence[Append]) -> list[int]:
        """Store the events, all or none; return their revisions in order. See `Appender.append`.

        Errors: Conflict, Unavailable, Full, Unconfirmed.
        """
        return await self._appender.append(writes)

    async def last(self, subject: str) -> Record | Unreadable | None:
        """Return the last word on a subject, asked of the server itself; None: never written.

        Errors: Unavailable.
        """
        return await words.last(self._js, subject, connected=self.connected)

    async def first_after(self, subject: str, revision: int) -> Record | Unreadable | None:
        """Return the first word on a subject behind a revision, of those that are kept; None: there is none.

        Errors: Unavailable.
        """
        return await words.first_after(self._js, subject, revision, connected=self.connected)

    async def led(self) -> tuple[str, bool]:
        """Return which server answers reads of the stream, and whether it surely leads its cluster.

        Errors: Unavailable.
        """
        return await asked(streams.led(self._js))

    async def last_good(self, subject: str, good: Callable[[Event], bool]) -> Event | None:
        """Return the last event of a subject that is good; None when the stream has none.

        Errors: Unavailable.
        """
        return await asked(last_good(self._nc, self._js, subject, good))

    @property
    def upkeep(self) -> Upkeep:
        """What looks after the events stream."""
        return Upkeep(self._js)

    async def follow(self) -> AsyncIterator[list[Followed]]:
        """Yield the events stream for ever: Reset, its records, CaughtUp, then what comes.

        Any doubt (a gap in the deliveries, a missed heartbeat, a reconnect) begins again with Reset.
        A record that does not decode is rejected and skipped.
        """
        while True:
            try:
                self._follower = Follower(self._nc, self._js, self.reject, self._history)
                async for items in self._follower.follow():
                    self._settled |= any(isinstance(item, CaughtUp) for item in items)
                    yield items
            except (NatsError, TimeoutError, DoubtError) as error:
                self._settled = False
                log.warning("following the events anew: %s", error or type(error).__name__)
                await asyncio.sleep(0.2)

    async def last_status(self, topic: Topic[T]) -> AsyncIterator[tuple[T, str]]:
        """Yield the last status of each subject of the topic, and the subject: what a late starter missed."""
        consumer_inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(consumer_inbox)
        config = follower_config(consumer_inbox, topic.pattern)
        config.idle_heartbeat = None
        config.flow_control = None
        try:
            info = await self._js.add_consumer(topics.STATUS_STREAM, config)
            for _ in range(info.num_pending or 0):
                message = await subscription.next_msg(timeout=5)
                try:
                    value = topic.decode(message.data)
                except CodecError as error:
                    await self.reject(message.subject, str(error))
                    continue
                yield value, message.subject
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"cannot read {topics.STATUS_STREAM}: {error}") from error
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()


def _lost(nc: Any) -> bool:
    """Tell whether the client will do nothing any more: it neither reads from a server nor looks for one."""
    if nc.is_closed:
        return True
    working = nc._reading_task if nc.is_connected else nc._reconnection_task
    return working is None or working.done()


def _chance() -> float:
    return os.urandom(1)[0] / 255
