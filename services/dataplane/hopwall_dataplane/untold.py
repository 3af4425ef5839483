"""What is told of drift: at once, or, where NATS is away, as soon as it is back, with the time when it was found.

It refuses to remember without end: of more than `_MOST` that cannot be told the oldest are forgotten; the number of all is
in the host's status. What went out as a server died may be lost: nobody acknowledges it.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from hopwall_dataplane.drift import Found
from hopwall_model import topics
from hopwall_model.status import Drift
from hopwall_runtime import clock

log = logging.getLogger(__name__)

_MOST = 1000


class Untold:
    """The drift of one host that nobody has been told of yet.

    Owner: the agent's loop.
    """

    def __init__(self, host: str, publish: Callable[[str, Drift], Awaitable[bool]]) -> None:
        """Begin with none; `publish` tells whether it went out."""
        self._host = host
        self._publish = publish
        self._waiting: deque[Drift] = deque(maxlen=_MOST)

    async def add(self, found: Iterable[Found]) -> None:
        """Take what was found now, and tell it if that can be."""
        at = clock.now_text()
        for one in found:
            log.warning("drift: %s %s: %s; repairing", one.object, one.name, one.detail)
            note = Drift(
                host=self._host, object=one.object, name=one.name, detail=one.detail, at=at
            )
            self._waiting.append(note)
        await self.tell()

    async def tell(self) -> None:
        """Tell what waits, in order, as long as it goes out."""
        while self._waiting:
            note = self._waiting.popleft()
            if not await self._publish(topics.drift_subject(self._host), note):
                self._waiting.appendleft(note)
                return
