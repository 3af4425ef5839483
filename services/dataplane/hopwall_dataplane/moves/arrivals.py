"""Workloads that move here: the signs they give, what follows for this host, and what calc is told of it.

Owner: the agent's one task; only the ears put signs in, on its loop.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.moves.carrier import Carrier
from hopwall_dataplane.moves.ears import Ears
from hopwall_dataplane.moves.neighbours import forget
from hopwall_dataplane.moves.rivals import Rivals
from hopwall_model import topics
from hopwall_model.status import Moved, MovedHere
from hopwall_model.updates import EndpointId

log = logging.getLogger(__name__)


@dataclass
class Arrivals:
    """What one host hears and tells of arrivals."""

    host: str
    desired: Desired
    wake: Callable[[], None]
    #: None where flows are not carried along.
    carrier: Carrier | None = None
    #: None where BGP is nothing to this host.
    rivals: Rivals | None = None
    _ears: Ears = field(init=False)
    _signs: list[EndpointId] = field(default_factory=list)
    #: What an agent before this one began is gone on with.
    _resumed: bool = False
    #: What calc was last told; None when it must be told again.
    _told: tuple[MovedHere, ...] | None = None

    def __post_init__(self) -> None:
        """Be ready to hear workloads arrive."""
        self._ears = Ears(self._on_sign)

    def _on_sign(self, endpoint_id: EndpointId) -> None:
        self._signs.append(endpoint_id)
        self.wake()

    async def serve(self) -> None:
        """Answer the hosts that workloads move to."""
        if self.carrier is not None:
            await self.carrier.serve()

    def fold(self, now: float) -> None:
        """Let the workloads that were heard arrive, sources yield, and migrations that have converged be over."""
        signs, self._signs = self._signs, []
        for endpoint_id in signs:
            if self.desired.arrive(endpoint_id):
                log.info("workload of endpoint %s has arrived here", endpoint_id)
        self.desired.tick(now, self.rivals.take_gone() if self.rivals else ())
        if self.carrier is not None:
            self.carrier.notes.add(self.desired.moves.fresh())

    def listen(self) -> None:
        """Listen to the interfaces where somebody is expected."""
        self._ears.listen(self.desired.expected())
        if self.rivals is not None:
            self.rivals.look()

    def welcome(self) -> None:
        """Do what else follows for the workloads that have arrived, whose routes stand now."""
        fresh = self.desired.moves.take_fresh()
        if not self._resumed and self.carrier is not None:
            self._resumed = True
            self.carrier.resume()
        for arrival in fresh.values():
            forget(arrival.interface, arrival.move.addresses)
        if self.carrier is not None:
            self.carrier.fetch({endpoint_id: one.move for endpoint_id, one in fresh.items()})
            self.carrier.expect(self.desired.moves.targets())

    async def tell(self, publish: Callable[[str, Moved], Awaitable[bool]]) -> None:
        """Tell calc whose workloads are here now, for it to let everybody know."""
        arrived = self.desired.moves.arrived()
        if arrived == self._told:
            return
        moved = Moved(host=self.host, arrived=arrived)
        if await publish(topics.moved_subject(self.host), moved):
            self._told = arrived

    def tell_again(self) -> None:
        """Have calc told again: one that has just begun may not know."""
        if self._told:
            self._told = None
            self.wake()
