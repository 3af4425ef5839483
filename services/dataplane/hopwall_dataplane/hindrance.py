"""What keeps the kernel from being as wanted, in words, as long as it does: a tool that does not end, or a failure.

It refuses to do anything about it: whoever waits gives up, kills and tries again by itself.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hopwall_runtime import clock

#: A turn that takes longer is told of while it lasts.
PATIENCE_S = 2.0


@dataclass(slots=True)
class Hindrance:
    """What this host's status says of the turn that lasts, or of the last one that failed.

    Owner: the agent's one task.
    """

    #: Called when a turn has lasted too long.
    tell: Callable[[], None]
    #: Names what is waited for; "" when nothing is.
    waits_for: Callable[[], str]
    _slow_since: str = ""
    _failing_since: str = ""
    _reason: str = ""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Watch over a turn."""
        began_at = clock.now_text()
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._be_slow, began_at)
        try:
            yield
        finally:
            timer.cancel()
            self._slow_since = ""

    def _be_slow(self, since: str) -> None:
        self._slow_since = since
        self.tell()

    def ended(self, held_by: str) -> None:
        """Take why not all of a turn could be done; "" when it was."""
        self._reason = held_by
        self._failing_since = (self._failing_since or clock.now_text()) if held_by else ""

    @property
    def text(self) -> str:
        """One sentence, "" when nothing hinders."""
        if self._slow_since:
            what = self.waits_for() or "the kernel"
            return f"Changes wait since {self._slow_since} for {what}."
        if self._reason:
            return f"Not all is applied, since {self._failing_since}; it is tried again: {self._reason}"
        return ""
