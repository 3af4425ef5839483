"""Claims of blocks that cross others, and giving back those that nobody was told of.

Shell. Blocks of one name exclude each other by compare-and-set. Blocks of two sizes (a pool's blockSize was just
changed) or of overlapping pools do not: the stream's order decides, which every process sees alike, and the later
gives way before anybody is told of an address in it. Its owner sees to that at once; where it dies before, whoever
meets the claim does. A claim is known by its event, which no later write of the block and no restore bears: so what
was told of, or was brought back, is never taken.
"""

import logging
from collections.abc import Iterable

from hopwall_api import intent
from hopwall_api.ipam.view import Block, View
from hopwall_api.problems import ApiProblem
from hopwall_api.store import Held, Store
from hopwall_api.writer import HDR_CLAIM, Source, Writer, silent
from hopwall_model import topics
from hopwall_model.events import ResourceSet
from hopwall_model.resources import IPAMBlock, Key
from hopwall_runtime.follower import Record
from hopwall_runtime.link import Conflict, Link, Unavailable

log = logging.getLogger(__name__)

#: Who writes when a claim is given back.
WITHDRAWN = Source(actor="hopwall-api", request_id="withdrawn-claim")
#: A block with the last word on it, and the names of those that it crosses.
_Crossing = tuple[str, int, tuple[str, ...]]


class Claims:
    """The claims among the blocks that cross others."""

    def __init__(self, link: Link, store: Store, writer: Writer, view: View) -> None:
        self._link = link
        self._store = store
        self._writer = writer
        self._view = view
        #: What was looked at and stays, so that it is not asked for again.
        self._standing: set[_Crossing] = set()

    async def give_back(self, *, sent: bool = False) -> None:
        """Take away every claim that crosses a block of before; the view shows it then.

        Cost: nothing while no blocks cross; else some reads for each pair, once.
        Errors: ApiProblem 503; with `sent` a write is on its way already, and what became of it is unknown.
        """
        self._view.follow(self._store)
        if not self._view.crossing:
            self._standing.clear()
            return
        met = {self._crossing(name) for name in self._view.crossing if self._is_readable(name)}
        self._standing &= met
        for name, last, others in sorted(met - self._standing):
            try:
                lost = await self._is_lost(name, last, others)
            except Unavailable as error:
                raise silent(error, sent=sent) from error
            if lost:
                await self.take_away(name, last)
            else:
                self._standing.add((name, last, others))
        self._view.follow(self._store)

    async def take_away(self, name: str, last: int) -> None:
        """Remove a claim, if this still is the last word on it.

        Errors: ApiProblem 503.
        """
        key = Key(IPAMBlock.__name__, "", name)
        held = Held(last=last, stored=self._store.get(key))
        if held.stored is None:
            return
        try:
            await self._writer.store_all([intent.plan_removal(key, held)], WITHDRAWN)
            log.warning("block %s is given back: it was claimed over another", name)
        except Conflict:
            log.info("block %s is written by another", name)
        except ApiProblem as problem:
            why = f"Block {name}, which crosses another, cannot be given back"
            raise silent(why, sent=True) from problem

    def is_later(self, name: str) -> bool:
        """Tell whether this claim, which was stored just now, crosses a block of before."""
        mine = self._view.blocks.get(name)
        if mine is None or name not in self._view.crossing:
            return False
        return any(other.claimed < mine.claimed for other in self._others(mine))

    def _others(self, block: Block) -> Iterable[Block]:
        return (other for other in self._view.overlapping(block.span) if other is not block)

    def _is_readable(self, name: str) -> bool:
        return not self._view.blocks[name].fault

    def _crossing(self, name: str) -> _Crossing:
        # One that cannot be read is nobody's to take away, and takes nothing away from who may have been told of it:
        # since when it has had its range is not known. Who makes a claim now gives way to it, untold (`is_later`).
        others = sorted(o.name for o in self._others(self._view.blocks[name]) if not o.fault)
        return name, self._store.held(Key(IPAMBlock.__name__, "", name)).last, tuple(others)

    async def _is_lost(self, name: str, last: int, others: Iterable[str]) -> bool:
        found = await self._link.last(_subject(name))
        if not isinstance(found, Record) or found.revision != last:
            return False
        if HDR_CLAIM not in found.headers:
            return False
        for other in others:
            if self._was_there(other, last) or await self._was_held(other, last):
                return True
        return False

    def _was_there(self, name: str, revision: int) -> bool:
        """Tell whether the block is known to have been there before the revision."""
        block = self._view.blocks.get(name)
        return block is not None and (block.claimed or self._view.built) < revision

    async def _was_held(self, name: str, revision: int) -> bool:
        """Tell whether the stream, as far back as it goes, held the block just before the revision."""
        at, held = 0, False
        while True:
            found = await self._link.first_after(_subject(name), at)
            if found is None or found.revision >= revision:
                return held
            if isinstance(found, Record):
                held = isinstance(found.event, ResourceSet)
            at = found.revision


def _subject(name: str) -> str:
    return topics.event_subject(Key(IPAMBlock.__name__, "", name))
