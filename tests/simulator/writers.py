"""Replicas of the api that write the same resources at once, over a stream in memory; and their history.

The api's own way from a plan to the stream (`Writer`, `Store`, `Appender`), with replicas that hear late of what
others wrote, and acknowledgements that get lost. `tests/faults/histories.py` judges what was acknowledged.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from nats.js.errors import APIError, NotFoundError

from hopwall_api.intent import Plan, Stamp, plan_set
from hopwall_api.news import News
from hopwall_api.problems import ApiProblem
from hopwall_api.store import Held, Store
from hopwall_api.writer import Source, Writer
from hopwall_model import topics
from hopwall_model.events import ResourceSet
from hopwall_model.resources import Key, Resource, key_of
from hopwall_runtime import words
from hopwall_runtime.appender import Append, Appender
from hopwall_runtime.follower import Record, Unreadable
from hopwall_runtime.link import Link
from tests.faults.histories import Judgement, Outcome, Stored, Write, judge
from tests.support import states

N_REPLICAS = 2
N_WRITES = 8
KEYS = ("one", "two")
_LATE_S = (0.0002, 0.0005, 0.001, 0.003)
_WRONG_LAST_SEQUENCE = 10071
_ACTOR = Source(actor="simulator", request_id="r")


@dataclass
class Events:
    """The stream, as a client of JetStream meets it: compare-and-set, then an answer that may get lost."""

    chance: Random
    #: The known-bad server: whoever writes last wins.
    compares: bool = True
    messages: list[Any] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)

    async def publish(
        self, subject: str, body: bytes, *, headers: Mapping[str, str], timeout: float
    ) -> Any:
        """Store a message if its subject's last one is the expected."""
        await self._pause()
        expected = int(headers[topics.HDR_EXPECTED_LAST_SUBJECT_SEQ])
        last = self._last(subject)
        if self.compares and expected != (last.seq if last else 0):
            raise APIError(code=400, err_code=_WRONG_LAST_SEQUENCE, description="wrong last")
        kept = SimpleNamespace(
            seq=len(self.messages) + 1, subject=subject, data=body, headers=dict(headers)
        )
        self.messages.append(kept)
        loop = asyncio.get_running_loop()
        for store in self.stores:
            loop.call_later(self.chance.choice(_LATE_S), self._tell, store)
        if self.chance.random() < 0.15:
            raise TimeoutError  # the answer got lost
        await self._pause()
        return kept

    def _tell(self, store: Store) -> None:
        for message in self.messages[store.revision :]:
            store.fold(message.seq, topics.EVENT.decode(message.data))

    async def get_last_msg(self, _stream: str, subject: str) -> Any:
        """Return the last message of a subject."""
        await self._pause()
        last = self._last(subject)
        if last is None:
            raise NotFoundError
        return last

    async def get_msg(self, _stream: str, *, seq: int, subject: str, next: bool) -> Any:  # noqa: A002
        """Return the first message of a subject from a sequence on."""
        await self._pause()
        assert next
        found = (one for one in self.messages[seq - 1 :] if one.subject == subject)
        for message in found:
            return message
        raise NotFoundError

    def _last(self, subject: str) -> Any:
        return next((m for m in reversed(self.messages) if m.subject == subject), None)

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.choice(_LATE_S))


class _Link:
    """What a writer needs of the link."""

    connected = True
    cluster = ""
    max_payload = 1024 * 1024

    def __init__(self, events: Events) -> None:
        self._events = events
        self._appender = Appender(None, events)

    async def append(self, writes: Sequence[Append]) -> list[int]:
        """Store events."""
        return await self._appender.append(writes)

    async def last(self, subject: str) -> Record | Unreadable | None:
        """Return the last word on a subject."""
        return await words.last(self._events, subject)

    async def first_after(self, subject: str, revision: int) -> Record | Unreadable | None:
        """Return the first word on a subject behind a revision."""
        return await words.first_after(self._events, subject, revision)


async def write_and_judge(chance: Random, *, compares: bool = True) -> Judgement:
    """Let replicas write the same few resources at once; judge what became of it."""
    events = Events(chance, compares)
    writes: list[Write] = []
    async with asyncio.TaskGroup() as replicas:
        for number in range(N_REPLICAS):
            store = Store()
            store.begin("simulated")
            store.caught_up(0)
            events.stores.append(store)
            replica = _Replica(number, Writer(cast(Link, _Link(events)), store, News()), writes)
            replicas.create_task(replica.write_all(chance))
    await asyncio.sleep(1.0)
    return judge(
        writes, [_stored(message) for message in events.messages], _shown(events.stores[0])
    )


@dataclass
class _Replica:
    """One process of the api, that several callers write by."""

    number: int
    writer: Writer
    writes: list[Write]

    async def write_all(self, chance: Random) -> None:
        async with asyncio.TaskGroup() as callers:
            for n in range(N_WRITES):
                callers.create_task(self._write(f"{self.number}-{n}", chance.choice(KEYS)))
                await asyncio.sleep(chance.choice((0.0, 0.0, *_LATE_S)))

    async def _write(self, token: str, name: str) -> None:
        """Write a token over whatever is there, and note what that was."""
        wanted = states.global_set(name, {"token": token})
        key = key_of(wanted)
        base = -1
        loop = asyncio.get_running_loop()

        def planned(held: Mapping[Key, Held], stamp: Stamp) -> Sequence[Plan]:
            nonlocal base
            base = held[key].last
            return (plan_set(key, wanted, held[key], stamp),)

        begun, revision = loop.time(), 0
        outcome: Outcome = "acked"
        try:
            [written] = await self.writer.write([key], planned, _ACTOR)
            revision = written.revision
        except ApiProblem as problem:
            outcome = "unknown" if "unknown" in str(problem) else "refused"
        self.writes.append(
            Write(
                key=name,
                token=token,
                base=base,
                begun=begun,
                ended=loop.time(),
                outcome=outcome,
                revision=revision,
            )
        )


def _stored(message: Any) -> Stored:
    resource = _resource(message.data)
    token = resource.metadata.labels["token"]
    return Stored(key=resource.metadata.name, token=token, revision=message.seq)


def _resource(body: bytes) -> Resource:
    event = topics.EVENT.decode(body)
    assert isinstance(event, ResourceSet)
    return event.resource


def _shown(store: Store) -> dict[str, str]:
    return {one.metadata.name: one.metadata.labels["token"] for one in store.everything()}
