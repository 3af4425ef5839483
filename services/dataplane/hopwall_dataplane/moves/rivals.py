"""Finds out when a source may yield: once BIRD here knows of nobody else who has its addresses.

What the workload's last host said before it came here may still be on its way, and its withdrawal too. It cannot be
told from the news that the workload has gone back there, but it was there before the source was asked to yield.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from hopwall_dataplane.desired import Desired
from hopwall_model.updates import EndpointId

#: Between two questions, each of which takes a fraction of a millisecond.
_PAUSE_S = 0.05


@dataclass(slots=True)
class Rivals:
    """Asks for the sources that wait, as long as there are any.

    Owner: the agent's loop; what it finds is folded by the agent's one task.
    """

    desired: Desired
    #: Whether others are known to have one of these addresses (as CIDRs).
    hears_of: Callable[[Iterable[str]], Awaitable[bool]]
    wake: Callable[[], None]
    _gone: list[EndpointId] = field(default_factory=list)
    _asking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin to ask if anybody waits."""
        if self.desired.moves.waiting() and (self._asking is None or self._asking.done()):
            # A loop method, not a TaskGroup: nobody waits for it, and what waits does not wait for long.
            loop = asyncio.get_running_loop()
            self._asking = loop.create_task(self._ask(), name="rivals")

    async def _ask(self) -> None:
        while waiting := self.desired.moves.waiting():
            for endpoint_id, addresses in waiting.items():
                if not await self.hears_of(sorted(addresses)):
                    self._gone.append(endpoint_id)
            if self._gone:
                self.wake()
            await asyncio.sleep(_PAUSE_S)

    def take_gone(self) -> list[EndpointId]:
        """Return who has no rival any more, since the last call."""
        gone, self._gone = self._gone, []
        return gone
