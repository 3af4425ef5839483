"""Whether this calc speaks: of several that run, only the one that began its epoch last does (decision 35).

The others follow the events and say nothing; when the one that rules has not been heard for some time, one of them
begins an epoch of its own. Who has slept (a frozen process, a paused machine) may have been deposed meanwhile without
having heard of it: it looks before it says another word.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable

from hopwall_model import topics
from hopwall_model.epochs import SILENT_S, Succession, epoch_name, term_of
from hopwall_model.status import CalcStatus
from hopwall_runtime import clock
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

_TICK_S = 0.25
#: Who did not run for longer than this has slept. Far below `SILENT_S`, in which nobody else begins.
_SLEPT_S = 2.0


class Ruling:
    """What one calc knows of who rules."""

    def __init__(self, link: Link, take_over: Callable[[], None], knows: Callable[[], int]) -> None:
        self._link = link
        #: Up to which revision this calc has heard of everything.
        self._knows = knows
        self._take_over = take_over
        self._succession = Succession()
        self._life = uuid.uuid4().hex
        self._epoch = ""
        self._last: CalcStatus | None = None
        self._awake_at = clock.monotonic()
        #: When nobody could be heard, as NATS was not there.
        self._deaf_at = self._awake_at

    def begin(self, store: str) -> str:
        """Return the name of a new epoch, which rules from now on."""
        term = self._succession.next_term(int(clock.file_time() * 1000))
        self._epoch = epoch_name(store, self._life, term)
        self._succession.begins(self._epoch, clock.monotonic())
        return self._epoch

    @property
    def deposed(self) -> bool:
        """Whether another rules."""
        return self._succession.epoch.rstrip("+") != self._epoch

    @property
    def _slept(self) -> bool:
        return clock.monotonic() - self._awake_at > _SLEPT_S

    async def follow(self) -> None:
        """Listen to whoever speaks, and learn who spoke last: before the first epoch begins."""
        pattern = topics.CALC_STATUS.pattern
        await self._link.subscribe(topics.CALC_STATUS, pattern, self._on_status)
        await self._look()

    async def may_speak(self) -> bool:
        """Tell whether this calc may say something now."""
        if self._slept:
            await self._look()
        return not self.deposed and not self._slept

    async def rules(self) -> bool:
        """Tell whether this calc rules, once that is known: what it has computed is said then, or by another."""
        while self._slept:
            await self._look()
            if self._slept:
                await asyncio.sleep(_TICK_S)
        return not self.deposed

    @property
    def may_speak_at_once(self) -> bool | None:
        """What `may_speak` says where it need not look; else None."""
        return None if self._slept else not self.deposed

    async def watch(self) -> None:
        """Stay awake, and take over from one that is not heard any more; for ever."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self._slept:
                await self._look()
                continue
            self._awake_at = clock.monotonic()
            if not self._link.settled:
                self._deaf_at = self._awake_at
            silent_s = self._awake_at - max(self._succession.heard_at, self._deaf_at)
            if self.deposed and silent_s > SILENT_S + self._patience_s and await self._is_left():
                self._take_over()

    async def _is_left(self) -> bool:
        """Tell whether nobody rules, by the server's last word of it, and this calc knows no less: it may be deaf."""
        ruler = self._succession.epoch
        last = await self._look()
        return (
            last is not None
            and self._succession.epoch == ruler
            and last.revision <= self._knows()
            and not self._slept
        )

    @property
    def _patience_s(self) -> float:
        """Of several that wait, they do not all begin at the same moment."""
        return (term_of(self._epoch) % 16) * _TICK_S

    def _on_status(self, status: CalcStatus, _: str = "") -> None:
        self._last = status
        ruled = bool(self._epoch) and not self.deposed
        self._succession.obeys(status.epoch, status.revision, clock.monotonic())
        if ruled and self.deposed:
            log.warning("epoch %s has begun elsewhere: this calc stands by", status.epoch)

    async def _look(self) -> CalcStatus | None:
        """Learn of the server who spoke last; return what was said, and where there is nothing what was heard."""
        asked_at = clock.monotonic()
        last = self._last
        try:
            async for last, _ in self._link.last_status(topics.CALC_STATUS):
                self._on_status(last)
        except Unavailable as error:
            log.warning("who rules is not known: %s", error)
            return None
        self._awake_at = asked_at
        return last
