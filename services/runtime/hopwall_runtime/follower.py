"""Following the events stream: a snapshot, then live, and never a silent gap.

A push consumer whose deliveries are counted here. An ordered consumer or a KV watch misses messages silently
after an overflow or a lost tail of the stream; this one notices by its own count and starts again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from hopwall_model import topics
from hopwall_model.codec import CodecError
from hopwall_model.events import Event

_HEARTBEAT_S = 2.0


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
    """What follows is a snapshot of the stream from nothing. `stream_id` changes when the stream does."""

    stream_id: str


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

    def advance(self, reply: str) -> int:
        """Return the stream sequence of this delivery.

        Source: NATS JetStream ack subject, `$JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<consumer
                seq>.<time>.<pending>`, or with domain and account before the stream (ADR-15).
        """
        tokens = reply.split(".")
        stream_seq, consumer_seq = (
            int(t) for t in (tokens[5:7] if len(tokens) == 9 else tokens[7:9])
        )
        if consumer_seq != self.delivered + 1:
            raise DoubtError(f"delivery {consumer_seq} came after {self.delivered}")
        self.delivered = consumer_seq
        self.revision = max(self.revision, stream_seq)
        return stream_seq

    @property
    def caught_up(self) -> bool:
        return self.delivered > self.remaining

    def just_caught_up(self) -> bool:
        return self.remaining != 0 and self.delivered == self.remaining


class Follower:
    """One consumer of the events stream, from its snapshot until the first doubt."""

    def __init__(self, nc: Any, js: Any, reject: Callable[[str, str], Awaitable[None]]) -> None:
        """Take the client's connection and what reports a message that does not decode."""
        self._nc = nc
        self._js = js
        self._reject = reject
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
            info = await self._js.stream_info(topics.EVENTS_STREAM)
            consumer = await self._js.add_consumer(
                topics.EVENTS_STREAM, follower_config(inbox, topics.EVENT.pattern)
            )
            yield [Reset(f"{info.created}" if info.created else "unknown")]
            cursor = _Cursor(remaining=consumer.num_pending or 0, revision=info.state.last_seq)
            if cursor.remaining == 0:
                yield [CaughtUp(cursor.revision)]
            while True:
                async with asyncio.timeout(3 * _HEARTBEAT_S):
                    messages = [await queue.get()]
                while not queue.empty() and len(messages) < 1000:
                    messages.append(queue.get_nowait())
                items = await self._decode_followed(messages, cursor)
                if items:
                    yield items
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

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
            revision = cursor.advance(message.reply)
            try:
                event = topics.EVENT.decode(message.data)
            except CodecError as error:
                await self._reject(message.subject, str(error))
                # Live, what was followed before still stands. In a snapshot it must be looked up: what
                # cannot be understood must not take away what was acknowledged.
                earlier = None if cursor.caught_up else await self._last_good(message.subject)
                if earlier is not None:
                    items.append(Record(revision=revision, event=earlier, headers={}))
            else:
                items.append(
                    Record(revision=revision, event=event, headers=dict(message.headers or {}))
                )
            if cursor.just_caught_up():
                items.append(CaughtUp(revision))
        return items

    async def _last_good(self, subject: str) -> Event | None:
        """Return the last event of a subject that can be understood; None when the stream has none."""
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox)
        config = follower_config(inbox, subject)
        config.deliver_policy = DeliverPolicy.ALL
        config.idle_heartbeat = config.flow_control = None
        good: Event | None = None
        try:
            consumer = await self._js.add_consumer(topics.EVENTS_STREAM, config)
            for _ in range(consumer.num_pending or 0):
                message = await subscription.next_msg(timeout=5)
                with contextlib.suppress(CodecError):
                    good = topics.EVENT.decode(message.data)
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()
        return good

    async def _on_control(self, message: Msg, cursor: _Cursor) -> None:
        headers = message.headers or {}
        if message.reply:  # flow control: the server waits for this echo
            await self._nc.publish(message.reply, b"")
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) != cursor.delivered:
            raise DoubtError(f"{cursor.delivered} deliveries seen, the server sent {last}")


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
