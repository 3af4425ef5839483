"""Where address management meets the stream: demands in, one write for those that wait together.

Shell. Demands for one host stand in one lane: while a write of the lane is on its way, what arrives waits,
and is planned together next. That only spares tries; that no address is given twice rests on compare-and-set
alone, also with several processes. A refusal, or an answer that needs no write, is given on a copy that has
all that was stored when the demand came.
"""

import asyncio
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from hopwall_api import intent, problems
from hopwall_api.intent import Plan, Stamp
from hopwall_api.ipam.claims import Claims
from hopwall_api.ipam.demands import Assign, Release
from hopwall_api.ipam.draft import Draft, Sheet
from hopwall_api.ipam.plan import Assigned, Refused, Released, Times, assign, release
from hopwall_api.ipam.view import View
from hopwall_api.news import News
from hopwall_api.store import Held, Store
from hopwall_api.tries import Found, Sent, is_with_nothing
from hopwall_api.writer import (
    MAX_TRIES,
    Source,
    Writer,
    check_batch,
    silent,
    too_many,
)
from hopwall_model import topics
from hopwall_model.resources import IPAMBlock, Key, Metadata
from hopwall_runtime import clock
from hopwall_runtime.follower import Record
from hopwall_runtime.link import Conflict, Link, Unavailable

Result = Assigned | Released

#: A host keeps an empty block for so long before another may have it. Source: Calico, ipam.go.
IDLE_S = 60
#: One write takes no further demand from here on: no demand touches more blocks than are left to MAX_BATCH.
_BLOCKS_AT_ONCE = 400
_DEMANDS_AT_ONCE = 128
_SEE_S = 3.0


class Done(Struct, frozen=True):
    """A demand that was carried out, and the revision at which it stands."""

    result: Result
    revision: int


class _Demand:
    """One request that waits in a lane."""

    def __init__(self, wanted: Assign | Release, actor: str, request_id: str) -> None:
        self.wanted = wanted
        self.actor = actor
        self.request_id = request_id
        self.done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()


class _Lane:
    """The demands that touch one host's blocks."""

    def __init__(self) -> None:
        self.waiting: list[_Demand] = []
        #: Held by the demand that writes for all that wait; given on in the order of arrival.
        self.turn = asyncio.Lock()


class _Tries:
    """What was tried to meet some demands: a refusal does not say that nothing of it is stored."""

    def __init__(self) -> None:
        #: One after the other; each with what it gives, and the blocks it claims.
        self.sent: list[Sent] = []
        self.planned: list[tuple[list[Result | Refused], frozenset[str]]] = []
        #: Blocks that those which are stored have claimed.
        self.claimed: set[str] = set()
        self.asked: Mapping[Key, Held] = {}
        self.with_nothing = False


class Desk:
    """Takes demands and answers when they are stored."""

    def __init__(self, link: Link, store: Store, writer: Writer, news: News) -> None:
        self._link = link
        self._store = store
        self._writer = writer
        self._news = news
        self._lanes: dict[str, _Lane] = {}
        self.view = View()
        self.claims = Claims(link, store, writer, self.view)

    async def carry_out(self, wanted: Assign | Release, *, actor: str, request_id: str) -> Done:
        """Store what is wanted and return when reads show it.

        Errors: Refused; ApiProblem 409 after too many races, 413, 503.
        """
        self.view.follow(self._store)
        host = _lane_of(self.view, wanted)
        lane = self._lanes.setdefault(host, _Lane())
        demand = _Demand(wanted, actor, request_id)
        lane.waiting.append(demand)
        async with lane.turn:
            while not demand.done.done():
                await self._serve(lane)
        if not lane.waiting and not lane.turn.locked():
            self._lanes.pop(host, None)
        return demand.done.result()

    async def _serve(self, lane: _Lane) -> None:
        """Carry out those that wait longest in one write."""
        some = _together(lane.waiting)
        del lane.waiting[: len(some)]
        try:
            lane.waiting[:0] = await self._settle(some)
        except problems.ApiProblem as problem:
            for demand in some:
                _answer(demand, problem)
        except BaseException:
            # The process stops: whether the write was stored is not known.
            for demand in some:
                _answer(demand, problems.unavailable("The API is stopping; ask again."))
            raise

    async def _settle(self, demands: list[_Demand]) -> list[_Demand]:
        """Carry out the demands in one write; return those that did not fit into it."""
        current = False
        tries = _Tries()
        for attempt in range(MAX_TRIES):
            if await self._lost_a_claim(tries):
                continue
            await self.claims.give_back(sent=bool(tries.sent))
            sheet = Sheet(self.view)
            results = _planned(sheet, demands)
            plans = self._plans(sheet, tries.asked)
            writes = [plan for plan in plans if plan.event is not None]
            if not current and (not writes or not all(_changes(one) for one in results)):
                await self._catch_up(sent=bool(tries.sent))
                current = True
                continue
            check_batch(len(writes))
            claims = frozenset(name for name in sheet.drafts if name not in self.view.blocks)
            tries.planned.append((results, claims))
            source = _source(demands[: len(results)])
            try:
                written = await self._writer.store_all(writes, source, tries.sent)
            except Conflict:
                await asyncio.sleep(os.urandom(1)[0] / 255 * 0.002 * attempt)
                found = await self._after_conflict(tries, writes)
                if found is None:
                    continue
                (results, claims), written = tries.planned[found.number], found.written
            tries.claimed |= claims
            revision = max((one.revision for one in written), default=self._store.revision)
            if claims and self._store.revision < revision:
                # Whom it crosses is not known, so nobody is told of it.
                raise silent("The API does not see what the stream holds", sent=True)
            if await self._lost_a_claim(tries):
                continue
            for demand, result in zip(demands, results, strict=False):
                _answer(demand, result, revision)
            return demands[len(results) :]
        raise too_many("blocks", with_nothing=tries.with_nothing)

    async def _after_conflict(self, tries: "_Tries", writes: Sequence[Plan]) -> Found | None:
        """Return the try that is stored after all; without one, wait until reads show what came before."""
        self._writer.n_conflicts += 1
        found = (await self._writer.stored_after_all(tries.sent)).found
        if found is None:
            tries.asked = await self._writer.ask([plan.key for plan in writes], sent=True)
            tries.with_nothing = is_with_nothing(writes, tries.asked)
            await self._see(tries.asked)
        return found

    def _plans(self, sheet: Sheet, asked: Mapping[Key, Held]) -> list[Plan]:
        stamp = Stamp(uid=str(uuid.uuid4()), at=clock.now_text())
        plans = []
        for draft in sheet.touched():
            key = _block_key(draft.name)
            held = self._store.held(key)
            if key in asked and (asked[key].last > held.last or held.stored is None):
                # The last word is one that nobody can read: what counts is the value before it. Or there is none
                # any more: the tombstone was purged.
                held = Held(last=asked[key].last, stored=held.stored)
            if not draft.gone:
                plans.append(intent.plan_set(key, _resource(draft), held, stamp))
            elif held.stored is not None:
                plans.append(intent.plan_removal(key, held))
        return plans

    async def _catch_up(self, *, sent: bool) -> None:
        """Wait until reads show everything that the stream holds now.

        Errors: ApiProblem 503; with `sent` a write is on its way already, and what became of it is unknown.
        """
        try:
            last = await self._link.last(topics.EVENT.pattern)
        except Unavailable as error:
            raise silent(error, sent=sent) from error
        # A message that nobody can read is no word on any block.
        if isinstance(last, Record):
            revision = last.revision
            await self._until(lambda: self._store.revision >= revision, sent=sent)

    async def _see(self, asked: Mapping[Key, Held]) -> None:
        """Wait until reads show what the server was seen to hold."""
        revisions = [held.stored.revision for held in asked.values() if held.stored is not None]
        revisions += [held.last for held in asked.values() if held.stored is None]
        await self._until(lambda: self._store.revision >= max(revisions, default=0), sent=True)

    async def _until(self, holds: Callable[[], bool], *, sent: bool) -> None:
        if not await self._news.until(holds, _SEE_S):
            raise silent("The API does not see what the stream holds", sent=sent)

    async def _lost_a_claim(self, tries: "_Tries") -> bool:
        """Give back blocks of these tries that cross others of before; tell whether there was one, or one is gone.

        Whoever meets such a claim gives it back, so it may be gone before its owner comes to look.
        """
        self.view.follow(self._store)
        gone = {name for name in tries.claimed if name not in self.view.blocks}
        lost = sorted(name for name in tries.claimed if self.claims.is_later(name))
        for name in lost:
            await self.claims.take_away(name, self._store.held(_block_key(name)).last)
        tries.claimed -= gone
        if lost:
            # Looked at again by the next try: what another wrote on top, too.
            await self._see(await self._writer.ask([_block_key(name) for name in lost], sent=True))
        if lost or gone:
            # What these tries gave is not all there any more: no answer is to come of them.
            tries.sent.clear()
            tries.planned.clear()
        return bool(lost or gone)


def _block_key(name: str) -> Key:
    return Key("IPAMBlock", "", name)


def _resource(draft: Draft) -> IPAMBlock:
    return IPAMBlock(
        api_version="projectcalico.org/v3", metadata=Metadata(name=draft.name), spec=draft.spec()
    )


def _lane_of(view: View, wanted: Assign | Release) -> str:
    """Return the host whose blocks the demand is likely to change."""
    if wanted.node or isinstance(wanted, Assign):
        return wanted.node
    addresses = wanted.addresses or view.addresses_of_handle.get(wanted.handle, ())
    block = view.block_at(addresses[0]) if addresses else None
    return block.spec.host if block is not None else ""


def _together(waiting: Sequence[_Demand]) -> list[_Demand]:
    """Return the demands to carry out next: of one actor, so that the event can name him."""
    some: list[_Demand] = []
    for demand in waiting[:_DEMANDS_AT_ONCE]:
        if demand.actor != waiting[0].actor:
            break
        some.append(demand)
    return some


def _source(demands: Sequence[_Demand]) -> Source:
    # Each id has at most 128 characters; the header stays within what is kept free for headers.
    ids = [demand.request_id for demand in demands]
    more = f",+{len(ids) - _IDS_NAMED}" if len(ids) > _IDS_NAMED else ""
    return Source(actor=demands[0].actor, request_id=",".join(ids[:_IDS_NAMED]) + more)


_IDS_NAMED = 64


def _planned(sheet: Sheet, demands: Sequence[_Demand]) -> list[Result | Refused]:
    """Plan one demand after the other until the write is large enough."""
    times = times_at(clock.now_text(), sheet.view.settings.ip_cooldown_seconds)
    results: list[Result | Refused] = []
    for demand in demands:
        try:
            if isinstance(demand.wanted, Assign):
                results.append(assign(sheet, demand.wanted, times))
            else:
                results.append(release(sheet, demand.wanted, times))
        except Refused as refused:
            results.append(refused)
        if len(sheet.drafts) >= _BLOCKS_AT_ONCE:
            break
    return results


def times_at(now: str, cooldown_s: int) -> Times:
    """Return the moments of a plan that is made now."""
    at = datetime.fromisoformat(now)
    return Times(
        now=now,
        rested=_text(at - timedelta(seconds=cooldown_s)),
        idle=_text(at - timedelta(seconds=IDLE_S)),
    )


def _text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _changes(result: Result | Refused) -> bool:
    """Tell whether the result rests on a write, which a copy that lags would not survive."""
    if isinstance(result, Assigned):
        return result.changed
    return isinstance(result, Released) and bool(result.released or result.blocks)


def _answer(demand: _Demand, outcome: Result | Exception, revision: int = 0) -> None:
    if demand.done.done():
        return
    if isinstance(outcome, Exception):
        demand.done.set_exception(outcome)
    else:
        demand.done.set_result(Done(outcome, revision))
