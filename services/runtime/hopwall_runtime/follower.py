"""Following the events stream: a snapshot, then live, and never a silent gap.

A push consumer whose deliveries are counted here. An ordered consumer or a KV watch misses messages silently
after an overflow or a lost tail of the stream; this one notices by its own count and starts again.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo
from nats.js.errors import NotFoundError

from hopwall_model import topics
from hopwall_model.codec import CodecError
from hopwall_model.events import Event
from hopwall_runtime import clock
from hopwall_runtime.history import History, Sighting
from hopwall_runtime.streams import store_of

log = logging.getLogger(__name__)

_HEARTBEAT_S = 2.0
#: Who says nothing for so long is not there, or messages of his are lost.
SILENT_S = 3 * _HEARTBEAT_S
#: How often the stream is compared with what was seen of it.
AUDIT_S = 10.0
#: Quiet heartbeats after which the rest of a snapshot is not waited for any more.
_STUCK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored event. `revision` is its stream sequence."""

    revision: int
    event: Event
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stored message that is no event. Its revision still counts for compare-and-set."""

    revision: int


@dataclass(frozen=True, slots=True)
class Reset:
    """What follows is a snapshot of the stream from nothing.

    Shape: `stream_id` is another one when the stream is not surely the one followed before, with all it held;
           `store` is the id minted with it.
    """

    stream_id: str
    store: str = ""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Every event that was stored when the snapshot began has been delivered, up to `revision`."""

    revision: int


Followed = Reset | Record | CaughtUp


class DoubtError(Exception):
    """A delivery may have been missed."""


class _Cursor:
    """Counts deliveries of one consumer, so that a missing one is seen."""

    def __init__(self, *, remaining: int, revision: int) -> None:
        self.remaining = remaining
        self.revision = revision
        self.delivered = 0
        #: Quiet heartbeats in a row with some of the snapshot still to come.
        self.n_stuck = 0
        #: The newest message as the stream's leader has it, and the newest that was delivered.
        self.newest = 0
        self.highest = 0
        #: Stored, as the last audit saw, but not delivered by then.
        self.overdue: int | None = None

    def advance(self, reply: str) -> tuple[int, int]:
        """Return the stream sequence of this delivery, and when the server stored the message (ns).

        Source: NATS JetStream ack subject, `$JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<consumer
                seq>.<time>.<pending>`, or with domain and account before the stream (ADR-15).
        """
        tokens = reply.split(".")
        stream_seq, consumer_seq, stored_at = (
            int(t) for t in (tokens[5:8] if len(tokens) == 9 else tokens[7:10])
        )
        if consumer_seq != self.delivered + 1:
            raise DoubtError(f"delivery {consumer_seq} came after {self.delivered}")
        self.delivered = consumer_seq
        self.revision = max(self.revision, stream_seq)
        self.highest = max(self.highest, stream_seq)
        return stream_seq, stored_at

    def check_whole(self) -> None:
        """Refuse a snapshot that ends before the stream does: it is of a copy that lags behind.

        Errors: DoubtError.
        """
        if self.highest < self.newest:
            raise DoubtError(f"the snapshot ends at {self.highest}, the stream at {self.newest}")

    @property
    def complete(self) -> bool:
        """Whether all of the snapshot was delivered."""
        return self.delivered >= self.remaining

    @property
    def live(self) -> bool:
        """Whether the last delivery came after the snapshot."""
        return self.delivered > self.remaining

    def just_caught_up(self) -> bool:
        return self.remaining != 0 and self.delivered == self.remaining


class Follower:
    """One consumer of the events stream, from its snapshot until the first doubt."""

    def __init__(
        self,
        nc: Any,
        js: Any,
        reject: Callable[[str, str], Awaitable[None]],
        history: History | None = None,
    ) -> None:
        """Take the client's connection, what reports a message that does not decode, and what was seen so far."""
        self._nc = nc
        self._js = js
        self._reject = reject
        self._history = history or History()
        #: None stands for a doubt from outside.
        self._queue: asyncio.Queue[Msg | None] = asyncio.Queue()

    def doubt(self) -> None:
        """Note that a delivery may have been missed: the connection was lost for a while."""
        self._queue.put_nowait(None)

    async def follow(self) -> AsyncIterator[list[Followed]]:
        """Yield Reset, the records of the snapshot, CaughtUp, then live records.

        Errors: DoubtError, TimeoutError or the client's errors when something may have been missed.
        """
        queue = self._queue
        inbox = self._nc.new_inbox()

        async def on_message(message: Msg) -> None:
            queue.put_nowait(message)

        subscription = await self._nc.subscribe(
            inbox, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        try:
            info = await self._resume()
            newest = await self._newest()
            consumer = await self._js.add_consumer(
                topics.EVENTS_STREAM, follower_config(inbox, topics.EVENT.pattern)
            )
            yield [Reset(self._history.id, self._history.store)]
            cursor = _Cursor(remaining=consumer.num_pending or 0, revision=info.state.last_seq)
            cursor.newest = newest
            if cursor.remaining == 0:
                cursor.check_whole()
                self._history.heard_at = clock.monotonic()
                yield [CaughtUp(cursor.revision)]
            audit_at = clock.monotonic() + AUDIT_S
            while True:
                async with asyncio.timeout(SILENT_S):
                    messages = [await queue.get()]
                if clock.monotonic() >= audit_at:
                    await self._audit(cursor)
                    audit_at = clock.monotonic() + AUDIT_S
                while not queue.empty() and len(messages) < 1000:
                    messages.append(queue.get_nowait())
                items = await self._decode_followed(messages, cursor)
                if cursor.complete:
                    self._history.heard_at = clock.monotonic()
                if items:
                    yield items
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def _resume(self) -> StreamInfo:
        """Look whether the stream is the one of before; from here on it is the one that is there."""
        info, seen = await self._sighting()
        reason = self._history.resume(seen)
        if reason:
            log.error("the events stream is not the one followed before: %s", reason)
        return info

    async def _newest(self) -> int:
        try:
            message = await self._js.get_last_msg(topics.EVENTS_STREAM, topics.EVENT.pattern)
        except NotFoundError:
            return 0
        return int(message.seq)

    async def _audit(self, cursor: _Cursor) -> None:
        """Look whether the stream still is what was followed, and whether all of it was delivered.

        Errors: DoubtError.
        """
        quiet = cursor.complete and self._queue.empty()
        info, seen = await self._sighting()
        if reason := self._history.audit(seen):
            raise DoubtError(f"the events stream has changed: {reason}")
        last = int(info.state.last_seq)
        if quiet and cursor.overdue is not None and cursor.revision < cursor.overdue:
            raise DoubtError(f"message {cursor.overdue} was stored, and not delivered")
        cursor.overdue = last if quiet and last > cursor.revision else None

    async def _sighting(self) -> tuple[StreamInfo, Sighting]:
        info = await self._js.stream_info(topics.EVENTS_STREAM)
        anchor = self._history.anchor
        at_anchor: int | None = None
        if anchor is not None:
            with contextlib.suppress(NotFoundError):
                message = await self._js.get_msg(topics.EVENTS_STREAM, anchor.revision)
                at_anchor = _microseconds(message.time)
        return info, Sighting(
            store=store_of(info.config),
            created=str(info.created),
            last_revision=int(info.state.last_seq),
            at_anchor=at_anchor,
        )

    async def _decode_followed(
        self, messages: Sequence[Msg | None], cursor: _Cursor
    ) -> list[Followed]:
        items: list[Followed] = []
        for message in messages:
            if message is None:
                raise DoubtError("the connection was lost for a while")
            if message.headers and message.headers.get("Status") == "100":
                await self._on_control(message, cursor)
                continue
            revision, stored_at = cursor.advance(message.reply)
            self._history.note(revision, stored_at // 1000)
            try:
                event = topics.event_on(message.subject, message.data)
            except CodecError as error:
                await self._reject(message.subject, str(error))
                # Live, what was followed before still stands. In a snapshot it must be looked up: what
                # cannot be understood must not take away what was acknowledged.
                earlier = None if cursor.live else await self._earlier(message.subject)
                if earlier is not None:
                    items.append(Record(revision=revision, event=earlier, headers={}))
            else:
                items.append(
                    Record(revision=revision, event=event, headers=dict(message.headers or {}))
                )
            if cursor.just_caught_up():
                cursor.check_whole()
                items.append(CaughtUp(cursor.revision))
        return items

    async def _earlier(self, subject: str) -> Event | None:
        return await last_good(self._nc, self._js, subject)

    async def _on_control(self, message: Msg, cursor: _Cursor) -> None:
        headers = message.headers or {}
        if message.reply:  # flow control: the server waits for this echo
            await self._nc.publish(message.reply, b"")
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) != cursor.delivered:
            raise DoubtError(f"{cursor.delivered} deliveries seen, the server sent {last}")
        if cursor.complete or last is None or "Nats-Consumer-Stalled" in headers:
            cursor.n_stuck = 0
            return
        # A message that was counted as part of the snapshot was taken out of the stream before its turn.
        cursor.n_stuck += 1
        if cursor.n_stuck == _STUCK:
            raise DoubtError(
                f"{cursor.remaining - cursor.delivered} messages of the snapshot do not come"
            )


def _microseconds(at: datetime) -> int:
    """Return a server's time in µs since 1970: what the client keeps of its nanoseconds."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def follower_config(inbox: str, pattern: str) -> ConsumerConfig:
    """Return a consumer that delivers the last value of each subject, then what comes."""
    return ConsumerConfig(
        deliver_subject=inbox,
        filter_subject=pattern,
        deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
        ack_policy=AckPolicy.NONE,
        max_deliver=1,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=30,
        idle_heartbeat=_HEARTBEAT_S,
        flow_control=True,
    )


async def last_good(
    nc: Any, js: Any, subject: str, good: Callable[[Event], bool] = lambda _: True
) -> Event | None:
    """Return the last event of a subject that can be understood and is good; None when the stream has none.

    Errors: the client's, TimeoutError.
    """
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    config = follower_config(inbox, subject)
    config.deliver_policy = DeliverPolicy.ALL
    config.idle_heartbeat = config.flow_control = None
    found: Event | None = None
    try:
        consumer = await js.add_consumer(topics.EVENTS_STREAM, config)
        for _ in range(consumer.num_pending or 0):
            message = await subscription.next_msg(timeout=5)
            with contextlib.suppress(CodecError):
                event = topics.event_on(subject, message.data)
                found = event if good(event) else found
    finally:
        if not nc.is_closed:
            await subscription.unsubscribe()
    return found
