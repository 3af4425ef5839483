"""The shared scopes a host listens to: those its feed needs, and no others."""

from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field

from hopwall_model import topics
from hopwall_model.updates import Scope, SharedUpdate
from hopwall_runtime.link import Link


@dataclass(slots=True)
class Subscriptions:
    """The subscriptions that stand."""

    link: Link
    on_message: Callable[[SharedUpdate, str], None]
    _ends: dict[Scope, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    async def follow(self, needed: Set[Scope]) -> None:
        """Listen to these scopes, and to these alone."""
        for scope in sorted(needed - self._ends.keys()):
            subject = topics.shared_subject(scope)
            self._ends[scope] = await self.link.subscribe(topics.SHARED, subject, self.on_message)
        for scope in sorted(self._ends.keys() - needed):
            await self._ends.pop(scope)()
