"""Writing to the stream: compare-and-set with CloudEvents headers, and reading one's own writes.

Shell. A write is planned on the folded copy. When that turns out to be behind (another write came first, a
precondition fails, nothing would change) the plan is made again on what the server itself holds, so a
refusal is never the fault of a copy that lags.

Source: CloudEvents 1.0, NATS protocol binding, binary mode.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from msgspec import Struct

from hopwall_api import problems, restoring
from hopwall_api.intent import Plan, Stamp
from hopwall_api.news import News
from hopwall_api.outcomes import HDR_KEY, HDR_REQUEST_HASH, Written
from hopwall_api.pools import POOL, guarded
from hopwall_api.problems import ApiProblem
from hopwall_api.store import NOTHING, Held, Store, shown
from hopwall_api.tries import Found, Known, Looked, Sent, is_with_nothing
from hopwall_model import codec, topics
from hopwall_model.events import Event, ResourceSet, RestoreBegun
from hopwall_model.resources import KIND_BY_NAME, IPAMBlock, Key
from hopwall_runtime import clock
from hopwall_runtime.follower import Record, Unreadable
from hopwall_runtime.link import MAX_BATCH, Append, Conflict, Link, Unavailable, Unconfirmed

log = logging.getLogger(__name__)

#: What an event's headers take of a message at most.
_HEADER_BYTES = 16_384
#: On the event that claims a block's range, and on none that is written of it later, or by a restore.
HDR_CLAIM = "hopwall-claim"
_BLOCK = IPAMBlock.__name__
MAX_TRIES = 32
_READ_OWN_WRITE_S = 3.0
_READS_AT_ONCE = 64
#: How often to look whether a leader is heard by most, in a time in which nobody else is elected.
_LED_LOOKS, _LED_LOOK_S = 6, 0.25
#: The server holds at most 50 unfinished batches of a stream (NATS ADR-50).
_BATCHES_AT_ONCE = 16

_UNKNOWN = (
    "It is unknown whether the write was stored: read the resource when /readyz is ok again, or repeat the request"
    " with the same Idempotency-Key."
)
#: Of a conflict with nothing: what a server says that was the leader, or a write of which nobody knows stands before.
_NO_LEADER = (
    "NATS refuses the write and does not hold another one in its place: it may not agree who leads."
    f" {_UNKNOWN}"
)

_NOT_KEPT = (
    "The resource was written so often meanwhile that NATS has dropped what was stored at first"
)

Planner = Callable[[Mapping[Key, Held], Stamp], Sequence[Plan]]


class Source(Struct, frozen=True, kw_only=True):
    """Where a write comes from, for the event's headers."""

    actor: str
    request_id: str
    idempotency_key: str = ""
    request_hash: str = ""
    #: The file of the restore that this is a part of: then, and only then, it is written meanwhile.
    restores: str = ""


class Writer:
    """The one way from a plan to the stream."""

    def __init__(self, link: Link, store: Store, news: News) -> None:
        self._link = link
        self._store = store
        self._news = news
        self._batches = asyncio.Semaphore(_BATCHES_AT_ONCE)
        self.n_conflicts = 0
        #: The highest revision that was acknowledged here: reads must show it.
        self.stored = 0

    async def write(
        self, keys: Sequence[Key], planner: Planner, source: Source, *, dry: bool = False
    ) -> tuple[Written, ...]:
        """Plan and store all or nothing, and return when reads show it.

        The planner may be called several times, each time with what is held at that moment.

        Errors: ApiProblem: what the planner raises; 409 after too many races; 413; 503, which says whether
                the outcome is unknown.
        """
        asked: Known | None = None
        sent: list[Sent] = []
        with_nothing, sure = False, True
        for attempt in range(MAX_TRIES):
            known = asked or self._folded(keys)
            stamp = Stamp(uid=str(uuid.uuid4()), at=clock.now_text())
            try:
                plans = _planned(known, planner, stamp, source)
            except ApiProblem as problem:
                if not sure:
                    raise silent(_NOT_KEPT, sent=True) from problem
                if asked is not None:
                    await self._check_led(sent=bool(sent))
                    raise
                asked = await self._asked(keys)
                continue
            unsure = asked is None and any(plan.event is None for plan in plans)
            if unsure and not dry:
                asked = await self._asked(keys)
                continue
            if dry:
                return tuple(_dry(plan) for plan in plans)
            restoring.check(known.begun, source.restores)
            try:
                return await self.store_all(plans, source, sent)
            except Conflict:
                self.n_conflicts += 1
                # Later tries wait a random while, so that many writers do not march in step.
                await asyncio.sleep(os.urandom(1)[0] / 255 * 0.002 * attempt)
                looked = await self.stored_after_all(sent)
                if looked.found is not None:
                    return looked.found.written
                sure = looked.sure
                asked = await self._asked(keys, sent=True)
                with_nothing = is_with_nothing(plans, asked.held, asked.conditions)
        raise too_many("resource", with_nothing=with_nothing)

    async def store_all(
        self, plans: Sequence[Plan], source: Source, sent: list[Sent] | None = None
    ) -> tuple[Written, ...]:
        """Store what the plans say, all or nothing, and return when reads show it; note in `sent` what was tried.

        Errors: Conflict when another write came first; ApiProblem 413; 503, also for what is stored within a restore.
        """
        if not source.restores:
            restoring.check(self._store.restoring, "")
        writes = [plan for plan in plans if plan.event is not None]
        appends = [self._append(plan, source) for plan in writes]
        one = Sent(plans, appends, source.restores, self._store.lineage)
        revisions: list[int] = []
        if appends:
            tried = bool(sent)
            if sent is not None:
                sent.append(one)
            revisions = await self._append_all(one, tried=tried)
        else:
            await self._check_led(sent=bool(sent))
        return await self._all_written(one, revisions)

    async def _check_led(self, *, sent: bool) -> None:
        """Refuse to answer from what a server holds that may lead no more.

        Errors: ApiProblem 503.
        """
        leader = ""
        for _ in range(_LED_LOOKS if self._link.cluster else 0):
            try:
                now, sure = await self._link.led()
            except Unavailable as error:
                raise silent(error, sent=sent) from error
            leader = leader or now
            if sure and now == leader:
                return
            # A busy cluster answers its leader late: once a second is usual.
            await asyncio.sleep(_LED_LOOK_S)
        if self._link.cluster:
            why = "The nats-server that answers may not lead its cluster any more"
            raise silent(why, sent=sent)

    async def _all_written(self, one: Sent, revisions: Sequence[int]) -> tuple[Written, ...]:
        if revisions:
            await self._acknowledged(one, max(revisions))
        writes = [plan for plan in one.plans if plan.event is not None]
        of_key = dict(zip((plan.key for plan in writes), revisions, strict=True))
        return tuple(_written(plan, of_key.get(plan.key)) for plan in one.plans)

    async def _acknowledged(self, one: Sent, revision: int) -> None:
        """Return when reads show what is stored, if a restore does not undo it.

        What another replica has begun is seen by then: it stands before the write in the stream.

        Errors: ApiProblem 503.
        """
        if self._store.lineage != one.lineage:
            raise restoring.unheard(revision)
        self.stored = max(self.stored, revision)
        if await self.shown(_READ_OWN_WRITE_S):
            within = self._store.within_restore(revision)
        else:
            log.warning("revision %d is stored, but reads do not show it yet", self.stored)
            within = await self._is_within(revision)
        if self._store.lineage != one.lineage:
            raise restoring.unheard(revision)
        if within and not one.restores:
            raise restoring.beside(revision)

    async def _is_within(self, revision: int) -> bool:
        """Tell whether a restore had begun when this was stored, asked of the server: reads do not show it yet.

        Errors: ApiProblem 503 where the last mark does not tell.
        """
        try:
            last = await self._link.last(restoring.SUBJECT)
        except Unavailable as error:
            raise restoring.unheard(revision) from error
        await self._check_led(sent=True)
        if last is None or last.revision <= self._store.revision:
            return False
        begun = isinstance(last, Record) and isinstance(last.event, RestoreBegun)
        if not begun or last.revision > revision:
            raise restoring.unheard(revision)
        return True

    async def stored_after_all(self, sent: Sequence[Sent]) -> Looked:
        """Return which of these tries the stream holds, though it was said to conflict.

        For a moment after a partition two servers take themselves for the leader, and both hear a write: the old one
        refuses it, the new one stores it, and the refusal may be the first to arrive.

        Errors: ApiProblem 503.
        """
        sure = True
        for index, one in enumerate(sent):
            try:
                revisions, known = await self._found(one)
            except Unavailable as error:
                raise silent(error, sent=True) from error
            sure = sure and known
            if revisions is not None:
                return Looked(Found(index, await self._all_written(one, revisions)), sure=True)
        return Looked(None, sure=sure)

    async def mark(
        self, key: Key, decide: Callable[[Event | None], Event | None], source: Source
    ) -> int:
        """Store an event that is no word on a resource; return its revision when reads show it.

        Shape:  `decide` is asked with the last one, as the server has it; None: that one says it already.
        Errors: ApiProblem: what `decide` raises; 409 after too many races; 503.
        """
        sent: set[str] = set()
        for _ in range(MAX_TRIES):
            try:
                last = await self._link.last(topics.event_subject(key))
            except Unavailable as error:
                raise silent(error, sent=bool(sent)) from error
            revision = last.revision if last is not None else 0
            # One of ours may be stored although it was said to conflict (`stored_after_all`).
            if not isinstance(last, Record) or last.headers.get("ce-id") not in sent:
                event = decide(last.event if isinstance(last, Record) else None)
            else:
                event = None
            if event is not None:
                append = self._event(key, event, revision, source)
                sent.add(append.headers["ce-id"])
                try:
                    [revision] = await self._append_all(
                        Sent((), [append], source.restores, self._store.lineage),
                        tried=len(sent) > 1,
                    )
                except Conflict:
                    continue
            self.stored = max(self.stored, revision)
            await self.shown(_READ_OWN_WRITE_S)
            return revision
        raise problems.conflict("Too many writers at once; try again.")

    async def shown(self, timeout_s: float = _READ_OWN_WRITE_S) -> bool:
        """Wait until reads show everything that was acknowledged here; tell whether they do."""
        return await self._news.until(lambda: self._store.revision >= self.stored, timeout_s)

    async def _append_all(self, one: Sent, *, tried: bool) -> list[int]:
        """Store the events; with `tried` others were sent for the same request before, and what became of them is open.

        Errors: Conflict; ApiProblem 503.
        """
        if not self._link.connected:
            raise silent("NATS is not connected", sent=tried)
        try:
            if len(one.appends) == 1:
                return await self._link.append(one.appends)
            async with self._batches:
                return await self._link.append(one.appends)
        except Unconfirmed as error:
            with suppress(Unavailable):
                stored, _ = await self._found(one)
                if stored is not None:
                    return stored
            raise silent(error, sent=True) from error
        except Unavailable as error:
            raise silent(error, sent=tried) from error

    async def _found(self, one: Sent) -> tuple[list[int] | None, bool]:
        """Return the revisions if the stream holds these very writes after all, and whether that is sure.

        A write that was stored stands right behind the message it was to replace. It is not sure that it was not
        where the server keeps no message of so long ago; where it depended on others, all behind it are looked at.

        Errors: Unavailable.
        """
        last = one.appends[-1]
        at, sure = one.base, True
        while (held := await self._link.first_after(last.subject, at)) is not None:
            if isinstance(held, Record):
                if held.headers.get("ce-id") == last.headers["ce-id"]:
                    n = len(one.appends)
                    return list(range(held.revision - n + 1, held.revision + 1)), True
                expected = held.headers.get(topics.HDR_EXPECTED_LAST_SUBJECT_SEQ, "")
                other = topics.HDR_EXPECTED_OF in held.headers
                sure = sure and (at != one.base or other or expected in ("", str(at)))
            if not last.of:
                break
            at = held.revision
        return None, sure

    def _folded(self, keys: Sequence[Key]) -> Known:
        held = {key: self._store.held(key) for key in keys}
        return Known(held, self._store.last_of(POOL), self._store.mark, self._store.restoring)

    async def _asked(self, keys: Sequence[Key], *, sent: bool = False) -> Known:
        """Return what the server holds; of pools their last word first, and reads show it then.

        Who writes on the condition that this still is the last has seen all pools, and these keys, as they are.

        Errors: ApiProblem 503, as of `ask`.
        """
        last_pool = await self._last_pool(sent=sent) if any(k.kind == POOL for k in keys) else 0
        held, mark = await asyncio.gather(self.ask(keys, sent=sent), self._last_mark(sent=sent))
        revision = mark.revision if mark is not None else 0
        if not isinstance(mark, Record):
            return Known(held, last_pool, revision, None)
        begun = mark.event if isinstance(mark.event, RestoreBegun) else None
        return Known(held, last_pool, revision, begun)

    async def _last_mark(self, *, sent: bool) -> Record | Unreadable | None:
        try:
            return await self._link.last(restoring.SUBJECT)
        except Unavailable as error:
            raise silent(error, sent=sent) from error

    async def _last_pool(self, *, sent: bool) -> int:
        try:
            last = await self._link.last(topics.kind_subjects(POOL))
        except Unavailable as error:
            raise silent(error, sent=sent) from error
        revision = last.revision if last is not None else 0
        # A message that nobody can read is no word on any pool.
        if isinstance(last, Record) and not await self._news.until(
            lambda: self._store.revision >= revision, _READ_OWN_WRITE_S
        ):
            raise silent("The API does not see what the stream holds", sent=sent)
        return revision

    async def ask(self, keys: Sequence[Key], *, sent: bool = False) -> dict[Key, Held]:
        """Return what the server itself holds of these keys.

        Errors: ApiProblem 503; with `sent` a write is on its way already, and what became of it is unknown.
        """
        held: dict[Key, Held] = {}
        try:
            for start in range(0, len(keys), _READS_AT_ONCE):
                some = keys[start : start + _READS_AT_ONCE]
                found = await asyncio.gather(
                    *(self._link.last(topics.event_subject(key)) for key in some)
                )
                held.update(
                    {key: self._held(key, one) for key, one in zip(some, found, strict=True)}
                )
        except Unavailable as error:
            raise silent(error, sent=sent) from error
        return held

    def _held(self, key: Key, found: Record | Unreadable | None) -> Held:
        if found is None:
            return NOTHING
        if isinstance(found, Unreadable):
            # Somebody's bad message is the last word. The next good write goes on top of it.
            return Held(last=found.revision, stored=self._store.get(key))
        if not isinstance(found.event, ResourceSet):
            return Held(last=found.revision, stored=None)
        return Held(last=found.revision, stored=shown(found.event.resource, found.revision))

    def _append(self, plan: Plan, source: Source) -> Append:
        assert plan.event is not None
        append = self._event(plan.key, plan.event, plan.expected, source)
        if plan.word == "created" and plan.key.kind == _BLOCK and not source.restores:
            append = replace(append, headers={**append.headers, HDR_CLAIM: "1"})
        if plan.among is None:
            return append
        return replace(append, expected=plan.among.last, of=plan.among.subjects)

    def _event(self, key: Key, event: Event, expected: int, source: Source) -> Append:
        body = codec.encode(event)
        most = self._link.max_payload - _HEADER_BYTES
        if len(body) > most:
            raise problems.too_large(
                f"{key} is {len(body)} bytes as an event; at most {most} fit one message of this"
                " NATS server. Divide it into several resources, or raise the server's max_payload."
            )
        event_id = str(uuid.uuid4())
        headers = {
            topics.HDR_MSG_ID: event_id,
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-source": "/hopwall/api",
            "ce-type": f"hopwall.{type(event).__struct_config__.tag}.v1",
            "ce-time": clock.now_text(),
            "ce-subject": path_of(key),
            "ce-actor": source.actor,
            "ce-requestid": source.request_id,
        }
        if source.idempotency_key:
            headers[HDR_KEY] = source.idempotency_key
            headers[HDR_REQUEST_HASH] = source.request_hash
        return Append(
            subject=topics.event_subject(key),
            body=body,
            expected=expected,
            headers=headers,
        )


def _planned(known: Known, planner: Planner, stamp: Stamp, source: Source) -> Sequence[Plan]:
    """Return what is to be written, with what it depends on besides.

    Errors: ApiProblem: what the planner raises; 409 for a part of a restore that is not under way.
    """
    if source.restores:
        restoring.check(known.begun, source.restores)
        return restoring.bound(planner(known.held, stamp), known.mark)
    return guarded(planner(known.held, stamp), known.last_pool)


def too_many(what: str, *, with_nothing: bool) -> ApiProblem:
    """Return what is said after the last try has met a conflict."""
    if with_nothing:
        return problems.unavailable(_NO_LEADER, retry_after_s=5)
    return problems.conflict(f"Too many writers changed the same {what} at once; try again.")


def silent(why: Unavailable | str, *, sent: bool) -> ApiProblem:
    """Return what is said where NATS does not answer; with `sent` a write was on its way to it."""
    if sent:
        return problems.unavailable(f"{why}. {_UNKNOWN}", retry_after_s=5)
    return problems.unavailable(f"{why}; nothing was stored. Try again.")


def check_batch(n: int) -> None:
    """Refuse more resources than one atomic batch holds.

    Errors: ApiProblem 413.
    """
    if n > MAX_BATCH:
        raise problems.too_large(
            f"{n} resources in one request; at most {MAX_BATCH} can be stored all or nothing."
            " Send them in several requests."
        )


def path_of(key: Key) -> str:
    """Return the path of a resource in the API, or of what speaks of all of them."""
    if key.kind not in KIND_BY_NAME:
        return f"/v1/{key.kind.lower()}"
    place = f"/namespaces/{key.namespace}" if key.namespace else ""
    return f"/v1{place}/{KIND_BY_NAME[key.kind].PLURAL}/{key.name}"


def _dry(plan: Plan) -> Written:
    resource = None if plan.word == "removed" else plan.resource
    return Written(key=plan.key, word=plan.word, revision=0, resource=resource)


def _written(plan: Plan, revision: int | None) -> Written:
    if revision is None:  # unchanged: it stands where it stood
        version = int(plan.resource.metadata.resource_version or 0)
        return Written(key=plan.key, word=plan.word, revision=version, resource=plan.resource)
    resource = None if plan.word == "removed" else shown(plan.resource, revision).resource
    return Written(key=plan.key, word=plan.word, revision=revision, resource=resource)
