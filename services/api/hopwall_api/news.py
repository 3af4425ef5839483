"""Waking those who wait for news: level-triggered, so a wake-up only says "look again"."""

import asyncio
from collections.abc import Callable

from hopwall_runtime import clock

#: A look below this costs less than the message that rang.
_QUICK_S = 0.0005


class News:
    """One bell for all that wait. Ringing costs nothing when nobody waits."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Wake everyone who waits now."""
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next ring, or when the time is over."""
        bell = self._bell
        try:
            async with asyncio.timeout(timeout_s):
                await bell.wait()
        except TimeoutError:
            return

    async def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; return whether it does.

        A look that takes long is followed by a pause as long as itself, so that one who waits never takes
        more than half of the loop; a quick one is repeated at every ring.
        """
        end = clock.monotonic() + timeout_s
        while True:
            began = clock.monotonic()
            if holds():
                return True
            now = clock.monotonic()
            if now >= end:
                return False
            if now - began > _QUICK_S:
                await asyncio.sleep(min(now - began, end - now))
            else:
                await self.wait(end - now)
