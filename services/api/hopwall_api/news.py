"""Waking those who wait for news: level-triggered, so a wake-up only says "look again".

Who waits never takes more than half of the loop, however many they are and however often there is news.
"""

import asyncio
from collections.abc import Callable

from hopwall_runtime import clock

#: A look below this costs less than the message that rang.
_QUICK_S = 0.0005
#: What it takes to wake one, besides its look: two steps of its task and a timer.
_WAKE_S = 0.00002


class News:
    """One bell for all that wait. Ringing costs nothing when nobody waits."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()
        #: Until then the loop is for others than those who wait.
        self._free_at = 0.0
        self._later: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Wake everyone who waits; if the last ring woke so many that it took long, as much later."""
        if self._later is not None:
            return
        left = self._free_at - clock.monotonic()
        if left > _QUICK_S:
            self._later = asyncio.get_running_loop().call_later(left, self._wake)
        else:
            self._wake()

    def _wake(self) -> None:
        self._later = None
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    def _took(self, seconds: float) -> None:
        self._free_at = max(self._free_at, clock.monotonic()) + 2 * seconds

    async def wait(self, timeout_s: float) -> None:
        """Return at the next ring, or when the time is over."""
        bell = self._bell
        try:
            async with asyncio.timeout(timeout_s):
                await bell.wait()
        except TimeoutError:
            return
        self._took(_WAKE_S)

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
            self._took(now - began)
            if now >= end:
                return False
            if now - began > _QUICK_S:
                await asyncio.sleep(min(now - began, end - now))
            else:
                await self.wait(end - now)
