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

    def __init__(self, link: Link, take_over: Callable[[], None]) -> None:
        self._link = link
        self._take_over = take_over
        self._succession = Succession()
        self._epoch = ""
        self._awake_at = clock.monotonic()
        #: When nobody could be heard, as NATS was not there.
        self._deaf_at = self._awake_at

    def begin(self, store: str) -> str:
        """Return the name of a new epoch, which rules from now on."""
        term = self._succession.next_term(int(clock.file_time() * 1000))
        self._epoch = epoch_name(store, uuid.uuid4().hex, term)
        self._succession.obeys(self._epoch, 0, clock.monotonic())
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
            if self.deposed and silent_s > SILENT_S + self._patience_s:
                self._take_over()

    @property
    def _patience_s(self) -> float:
        """Of several that wait, they do not all begin at the same moment."""
        return (term_of(self._epoch) % 16) * _TICK_S

    def _on_status(self, status: CalcStatus, _: str = "") -> None:
        ruled = bool(self._epoch) and not self.deposed
        self._succession.obeys(status.epoch, status.revision, clock.monotonic())
        if ruled and self.deposed:
            log.warning("epoch %s has begun elsewhere: this calc stands by", status.epoch)

    async def _look(self) -> None:
        """Learn who spoke last, of the server."""
        asked_at = clock.monotonic()
        try:
            async for status, _ in self._link.last_status(topics.CALC_STATUS):
                self._on_status(status)
        except Unavailable as error:
            log.warning("who rules is not known: %s", error)
            return
        self._awake_at = asked_at
