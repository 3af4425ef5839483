"""An event loop whose time passes only when nobody has anything to do.

    with VirtualLoop() as loop:
        loop.run_until_complete(asyncio.sleep(3600))  # at once

Everything in it is decided by what runs in it: the same program makes the same steps.
"""

import asyncio
import selectors
from types import TracebackType
from typing import Any, Self

from hopwall_runtime import clock

#: What one pass of the loop takes, at least: it runs timers that are due within a nanosecond, and who only looks
#: whether its time has come would look for ever at one that never passes.
_PASS_S = 1e-9


class NothingWillHappenError(AssertionError):
    """All tasks wait for each other: no timer is set, and there is no outside."""


class _NoOutside(selectors.SelectSelector):
    """What would wait for the outside lets time pass instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let the time pass that the loop would wait."""
        if timeout is None:
            raise NothingWillHappenError("every task waits, and no timer is set")
        self.now += max(_PASS_S, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; within its `with` the product's clock is its own."""

    def __init__(self) -> None:
        self._outside = _NoOutside()
        super().__init__(self._outside)

    def time(self) -> float:
        """Return the seconds since the beginning."""
        return self._outside.now

    def __enter__(self) -> Self:
        """Set the product's clock by this loop."""
        self._real_clock = clock.monotonic
        self._real_file_time = clock.file_time
        clock.monotonic = clock.file_time = self.time
        asyncio.set_event_loop(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Set it back, end what still runs, and close the loop."""
        clock.monotonic, clock.file_time = self._real_clock, self._real_file_time
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        self.close()
