"""Waking those who wait for news: level-triggered, so a wake-up only says "look again"."""

import asyncio
from collections.abc import Callable

from hopwall_runtime import clock


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

    async def until(
        self, holds: Callable[[], bool], timeout_s: float, *, pause_s: float = 0.0
    ) -> bool:
        """Wait until the condition holds; return whether it does. Looks at most once per `pause_s`."""
        end = clock.monotonic() + timeout_s
        while not holds():
            left = end - clock.monotonic()
            if left <= 0:
                return False
            await self.wait(left)
            if pause_s:
                await asyncio.sleep(min(pause_s, max(0.0, left)))
        return True
