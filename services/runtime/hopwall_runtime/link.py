"""The NATS link of a service: with `follower`, the only importer of nats.

What it adds to the client, each for a reason (experiments in docs/design/wire.md):

- it never gives up reconnecting, and notices a dead server within seconds, not minutes;
- the events stream is followed so that nothing is missed silently (`follower`);
- a message that does not decode is counted, reported on `hopwall.rejected.<service>` and skipped;
- values larger than a message travel as numbered chunks.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import (
    DiscardPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from hopwall_model import codec, topics
from hopwall_model.codec import CodecError
from hopwall_model.status import Rejected
from hopwall_model.topics import Topic
from hopwall_runtime import clock
from hopwall_runtime.config import CommonSettings
from hopwall_runtime.follower import (
    DoubtError,
    Followed,
    Follower,
    Record,
    Unreadable,
    follower_config,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Largest body of one chunk; the server's default max_payload is 1 MiB and headers count.
CHUNK_BYTES = 512 * 1024
#: Messages in one atomic batch. Source: NATS ADR-50.
MAX_BATCH = 1000
HISTORY_PER_SUBJECT = 65
_DRAIN_S = 2.0
_ERR_WRONG_LAST_SEQUENCE = 10071
_HDR_PART = "Hopwall-Part"
_HDR_WRITE_ID = "Hopwall-Write-Id"


class LinkError(Exception):
    """The bus did not do what was asked."""


class Unavailable(LinkError):
    """The bus cannot be reached or does not accept writes now; the same call may succeed later."""


class Unconfirmed(Unavailable):
    """The server was silent: whether the events were stored is unknown."""


class Conflict(LinkError):
    """Compare-and-set failed: the subject's last sequence is not the one expected. Nothing was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One event to store, if its subject's last message is still `expected` (0: none yet)."""

    subject: str
    body: bytes
    expected: int
    headers: Mapping[str, str]


class Link:
    """One connection of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._nc: Any = nats.aio.client.Client()
        self._js: Any = None
        self.rejected_messages = 0
        self._servers = ""
        self._last_error = ""
        self._follower: Follower | None = None
        self._reconnect_listeners: list[Callable[[], Awaitable[None]]] = []

    # ------------------------------------------------------------ connection

    async def connect(self, settings: CommonSettings) -> None:
        """Connect, waiting as long as it takes for a server to appear."""
        self._servers = ", ".join(settings.nats_url)
        options: dict[str, Any] = {
            "servers": list(settings.nats_url),
            "name": f"hopwall-{self._service}",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "connect_timeout": 5,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "inbox_prefix": settings.nats_inbox_prefix.encode(),
            "error_cb": self._on_error,
            "reconnected_cb": self._on_reconnected,
            "disconnected_cb": self._on_disconnected,
            "pending_size": 64 * 1024 * 1024,
        }
        if settings.nats_nkey_file:
            options["nkeys_seed_str"] = _secret(settings.nats_nkey_file)
        if settings.nats_ca_file:
            options["tls"] = _tls(settings.nats_ca_file)
        while True:
            try:
                await self._nc.connect(**options, allow_reconnect=True)
                break
            except (NatsError, OSError) as error:
                await self._on_error(error)
                await asyncio.sleep(0.5)
                self._nc = nats.aio.client.Client()
        self._js = self._nc.jetstream(timeout=5)

    async def close(self) -> None:
        """Flush what was published and close, within seconds also when the server has just gone."""
        try:
            if self._nc.is_connected:
                async with asyncio.timeout(_DRAIN_S):
                    await self._nc.drain()
        except (NatsError, TimeoutError) as error:
            log.info("NATS: not all was flushed at the end: %s", error)
        if not self._nc.is_closed:
            await self._nc.close()

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
            log.warning("NATS at %s: %s; trying again", self._servers, text)

    async def _on_disconnected(self) -> None:
        log.warning("NATS: disconnected")

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

        None refuses: the request is reported as rejected and not answered. What a caller may ask is bound
        to the subject its credential lets it use, so the body must not be believed against it.
        """

        async def on_request(message: Msg) -> None:
            try:
                request = topic.decode(message.data)
            except CodecError as error:
                await self.reject(message.subject, str(error))
                return
            given = answer(request, message.subject)
            body = await given if isinstance(given, Awaitable) else given
            if body is None:
                await self.reject(message.subject, "the request does not belong on this subject")
                return
            n_parts = max(1, -(-len(body) // CHUNK_BYTES))
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
        inbox = self._nc.new_inbox()
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

        The status stream is in memory: it is missing after a restart of the server.

        Errors: Unavailable.
        """
        events = StreamConfig(
            name=topics.EVENTS_STREAM,
            subjects=[topics.EVENT.pattern],
            storage=StorageType.FILE,
            max_msgs_per_subject=HISTORY_PER_SUBJECT,
            discard=DiscardPolicy.OLD,
            allow_direct=True,
            allow_atomic=True,
            duplicate_window=120,
        )
        status = StreamConfig(
            name=topics.STATUS_STREAM,
            subjects=["hopwall.status.>"],
            storage=StorageType.MEMORY,
            max_msgs_per_subject=1,
            allow_direct=True,
        )
        for config in (events, status):
            try:
                await self._ensure_stream(config)
            except (NatsError, TimeoutError) as error:
                raise Unavailable(f"cannot make the stream {config.name}: {error}") from error

    async def _ensure_stream(self, config: StreamConfig) -> None:
        try:
            await self._js.stream_info(config.name)
        except NotFoundError:
            await self._js.add_stream(config)

    async def append(self, writes: Sequence[Append]) -> list[int]:
        """Store the events, all or none; return their revisions in order.

        Shape:  one write is one publish; more are one atomic batch (at most MAX_BATCH).
        Errors: Conflict when an expectation fails; Unavailable when the server refuses; Unconfirmed when it is silent. Then
                the outcome is unknown: trying the same writes again (same Nats-Msg-Id) is safe
                and answers with the first try's revisions if it was stored.
        Source: NATS ADR-50 (atomic batch publish).
        """
        try:
            return await self._append_once(writes)
        except Conflict:
            # Ours, come back: an earlier try was stored although its answer was lost.
            stored = await self._revision_if_stored(writes[-1])
            if stored is None:
                raise
            return list(range(stored - len(writes) + 1, stored + 1))

    async def _append_once(self, writes: Sequence[Append]) -> list[int]:
        try:
            if len(writes) == 1:
                write = writes[0]
                ack = await self._js.publish(
                    write.subject, write.body, headers=_cas_headers(write), timeout=5
                )
                return [int(ack.seq)]
            return await self._append_batch(writes)
        except APIError as error:
            if error.err_code == _ERR_WRONG_LAST_SEQUENCE:
                raise Conflict("another write came first") from error
            raise Unavailable(f"NATS refused the write: {error.description}") from error
        except (NoRespondersError, NoStreamResponseError) as error:
            raise Unavailable("NATS has no events stream that takes writes now") from error
        except (NatsError, TimeoutError) as error:
            raise Unconfirmed(f"NATS did not confirm the write: {error}") from error

    async def last(self, subject: str) -> Record | Unreadable | None:
        """Return the last word on a subject, asked of the server itself; None: never written.

        Errors: Unavailable.
        """
        try:
            message = await self._js.get_last_msg(topics.EVENTS_STREAM, subject)
        except NotFoundError:
            return None
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"cannot read {subject}: {error}") from error
        revision = int(message.seq)
        try:
            event = topics.EVENT.decode(message.data or b"")
        except CodecError:
            return Unreadable(revision)
        return Record(revision=revision, event=event, headers=dict(message.headers or {}))

    async def _revision_if_stored(self, write: Append) -> int | None:
        """Return the revision of the subject's last message if it is this very write.

        The server checks the expected sequence before it looks for a duplicate id, so its own
        deduplication never answers a compare-and-set write that is tried again.
        """
        wanted = write.headers.get(topics.HDR_MSG_ID)
        if wanted is None:
            return None
        try:
            last = await self._js.get_last_msg(topics.EVENTS_STREAM, write.subject)
        except NotFoundError:
            return None  # it was another write of the batch that met the conflict
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"NATS does not say what it stored: {error}") from error
        found = (last.headers or {}).get(_HDR_WRITE_ID)
        return int(last.seq) if found == wanted else None

    async def _append_batch(self, writes: Sequence[Append]) -> list[int]:
        batch_id = self._nc.new_inbox().rpartition(".")[2]
        last = len(writes)
        for index, write in enumerate(writes, start=1):
            headers = _cas_headers(write)
            headers[topics.HDR_BATCH_ID] = batch_id
            headers[topics.HDR_BATCH_SEQ] = str(index)
            if index < last:
                await self._nc.publish(write.subject, write.body, headers=headers)
            else:
                headers[topics.HDR_BATCH_COMMIT] = "1"
                ack = await self._js.publish(write.subject, write.body, headers=headers, timeout=10)
        top = int(ack.seq)
        return list(range(top - last + 1, top + 1))

    async def follow(self) -> AsyncIterator[list[Followed]]:
        """Yield the events stream for ever: Reset, its records, CaughtUp, then what comes.

        Any doubt (a gap in the deliveries, a missed heartbeat, a reconnect) begins again with Reset.
        A record that does not decode is rejected and skipped.
        """
        while True:
            try:
                self._follower = Follower(self._nc, self._js, self.reject)
                async for items in self._follower.follow():
                    yield items
            except (NatsError, TimeoutError, DoubtError) as error:
                log.warning("following the events again from a snapshot: %s", error)
                await asyncio.sleep(0.2)

    async def last_status(self, topic: Topic[T]) -> AsyncIterator[tuple[T, str]]:
        """Yield the last status message of each subject of the topic, and the subject: what a late starter missed."""
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


def _cas_headers(write: Append) -> dict[str, str]:
    headers = {**write.headers, topics.HDR_EXPECTED_LAST_SUBJECT_SEQ: str(write.expected)}
    # Our own name for the id: a batch may not carry the server's deduplication header.
    if (write_id := headers.pop(topics.HDR_MSG_ID, None)) is not None:
        headers[_HDR_WRITE_ID] = write_id
    return headers


def _tls(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _secret(path: str) -> str:
    return Path(path).read_text().strip()
