"""Workloads that have gone: whither, and the flows that ended here with them, for as long as they may be asked for.

The target's host asks at the switch, and the orchestrator may remove the source's endpoint, or the migration, in
the same moment: the answer must not depend on which of the two is quicker.

Pure: time is a parameter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopwall_dataplane.conntrack.carry import MAX_FLOWS
from hopwall_dataplane.residents import packed
from hopwall_model.flows import CarriedFlow
from hopwall_model.updates import EndpointId, Move

#: Longer than the target asks (`carrier`), and than a slow removal takes.
KEEP_S = 15.0


@dataclass(slots=True)
class _Departed:
    """One workload that has gone."""

    move: Move
    flows: dict[CarriedFlow, None] = field(default_factory=dict)
    #: When it is forgotten; None until the clock was asked.
    until: float | None = None


@dataclass(slots=True)
class Departures:
    """Who has gone lately, by endpoint and migration.

    Owner: the agent's one task.
    """

    _gone: dict[tuple[EndpointId, str], _Departed] = field(default_factory=dict)

    def note(self, endpoint_id: EndpointId, move: Move) -> None:
        """Note that an endpoint is the source of a migration no longer."""
        self._gone[endpoint_id, move.migration] = _Departed(move)

    def move_of(self, endpoint_id: EndpointId, migration: str) -> Move | None:
        """Return the part that an endpoint had in a migration; None when it had none, or is forgotten."""
        found = self._gone.get((endpoint_id, migration))
        return None if found is None else found.move

    def keep(self, ends: Iterable[bytes], flow: CarriedFlow) -> None:
        """Keep a flow, between these (packed) addresses, that has been ended here."""
        ends = frozenset(ends)
        for departed in self._gone.values():
            here = any(packed(cidr) in ends for cidr in departed.move.addresses)
            if here and len(departed.flows) < MAX_FLOWS:
                departed.flows[flow] = None

    def flows(self, endpoint_id: EndpointId, migration: str) -> tuple[CarriedFlow, ...]:
        """Return the flows of who has gone that have been ended here since."""
        found = self._gone.get((endpoint_id, migration))
        return () if found is None else tuple(found.flows)

    def tick(self, now: float) -> None:
        """Forget whose time is over; begin to count for those who have just gone."""
        for key, departed in list(self._gone.items()):
            if departed.until is None:
                departed.until = now + KEEP_S
            if departed.until <= now:
                del self._gone[key]

    @property
    def due_at(self) -> float | None:
        """When the next one is forgotten; None when none is counted."""
        return min((d.until for d in self._gone.values() if d.until is not None), default=None)
