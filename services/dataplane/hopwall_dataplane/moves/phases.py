"""How far each live migration is on this host, and so at which priority an endpoint's route stands, if at all.

    target    programmed, but its route is withheld: the workload runs elsewhere
    live      the workload has arrived: an elevated route, which wins wherever two are known
    converge  the migration has ended; elevated still, until everybody has heard
    settled   that is over, with BGP: a route that is announced also out of the host's own block, as long as the
              workload is here; else the source's would win again if nobody could tell its host
    source    the workload is here, or was: a route that yields to any other

With BGP a source yields only once older news are over: what its workload's last host said of the address may still
be on its way, and looks like the news that the workload has gone back there. Until BIRD here knows of nobody else
(`rivals`), the route stays where it stood.

Restartable: who is seen for the first time with an elevated route in the kernel was live before; one that yields
goes on yielding, and who has settled is settled.
Pure: time is a parameter.

Source: Calico, felix/dataplane/linux/live_migration.go: Base, Target, Live, TimeWait.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from hopwall_dataplane.moves.departures import Departures
from hopwall_model.status import MovedHere
from hopwall_model.updates import EndpointId, EndpointSet, Move

#: Priorities of routes (metrics; lower wins). BIRD writes with 2048 (`bgp.render`), between normal and yielding.
NORMAL = 0
#: Source: Calico, ipv4ElevatedRoutePriority.
ELEVATED = 512
SETTLED = 256
YIELDING = 4096
#: How long older news are waited for at most: as long as a BIRD sleeps that nobody wakes (`bgp.waker`).
PATIENCE_S = 3.0

#: Of an endpoint of which nothing special stands in the kernel.
NOTHING: Mapping[str, int] = MappingProxyType({})


class Phase(StrEnum):
    """Where an endpoint's migration is; an endpoint that stays has none."""

    TARGET = "target"
    LIVE = "live"
    CONVERGE = "converge"
    SETTLED = "settled"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Expected:
    """Where a workload is to arrive, and with which addresses (as CIDRs)."""

    interface: str
    index: int
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A workload that has just arrived, and where."""

    interface: str
    move: Move


@dataclass(slots=True)
class _State:
    """One endpoint's phase."""

    interface: str
    phase: Phase
    addresses: frozenset[str]
    #: None once the migration has ended.
    move: Move | None
    #: Of a source that waits for older news to be over: where its route stands meanwhile.
    stands: int | None = None
    #: When convergence, or that wait, ends; None until the clock was asked.
    until: float | None = None


@dataclass(slots=True)
class Moves:
    """The phases of this host's endpoints.

    Owner: the agent's one task.
    """

    convergence_s: float = 30.0
    #: Whether others may be told of an address by BGP, so that older news of it may be about.
    with_bgp: bool = False
    departures: Departures = field(default_factory=Departures)
    _states: dict[EndpointId, _State] = field(default_factory=dict)
    _fresh: dict[EndpointId, Arrival] = field(default_factory=dict)

    def put(self, endpoint: EndpointSet, standing: Mapping[str, int] = NOTHING) -> None:
        """Take an endpoint as calc wants it; `standing` is what an agent before us left of migrations.

        Shape: `standing` maps addresses to where their routes stand, if not at the normal priority; it is only given
               for an endpoint seen for the first time.
        """
        before, move = self._states.get(endpoint.id), endpoint.move
        elevated, settled = _at(standing, ELEVATED), _at(standing, SETTLED)
        if move is None or (move.role, move.migration) != _part(before):
            self._depart(endpoint.id)
        if move is None:
            self._end(endpoint, before, elevated)
            if settled and endpoint.id not in self._states:
                self._states[endpoint.id] = _State(endpoint.interface, Phase.SETTLED, settled, None)
            return
        addresses = frozenset(move.addresses)
        if move.role == "source":
            self._states[endpoint.id] = self._as_source(endpoint, before, move, standing)
            return
        if move.switched or addresses & elevated or _is_live(before, move):
            phase = Phase.LIVE
        else:
            phase = Phase.TARGET
        if phase is Phase.LIVE and before is not None and before.phase is Phase.TARGET:
            self._fresh[endpoint.id] = Arrival(endpoint.interface, move)
        self._states[endpoint.id] = _State(endpoint.interface, phase, addresses, move)

    def _as_source(
        self, endpoint: EndpointSet, before: _State | None, move: Move, standing: Mapping[str, int]
    ) -> _State:
        """Return the state of an endpoint that is a source (still, or from now on)."""
        state = _State(endpoint.interface, Phase.SOURCE, frozenset(move.addresses), move)
        if before is not None and before.phase is Phase.TARGET and before.move is not None:
            # It is moved on, so it had arrived, though nobody heard of it.
            self._fresh[endpoint.id] = Arrival(endpoint.interface, before.move)
        if before is not None and before.phase is Phase.SOURCE:
            state.stands, state.until = before.stands, before.until
        elif self.with_bgp and YIELDING not in standing.values():
            held = (
                () if before is None else (SETTLED if before.phase is Phase.SETTLED else ELEVATED,)
            )
            state.stands = max((*held, *standing.values()), default=NORMAL)
        return state

    def _end(self, endpoint: EndpointSet, before: _State | None, elevated: frozenset[str]) -> None:
        """Note that the endpoint is in no migration (any more)."""
        if before is None:
            if elevated:
                self._states[endpoint.id] = _State(
                    endpoint.interface, Phase.CONVERGE, elevated, None
                )
        elif before.phase is Phase.SOURCE:
            del self._states[endpoint.id]
        elif before.move is not None:
            # A target that nobody heard of is where the workload is now: the migration is over.
            if before.phase is Phase.TARGET:
                self._fresh[endpoint.id] = Arrival(endpoint.interface, before.move)
            self._states[endpoint.id] = _State(
                endpoint.interface, Phase.CONVERGE, before.addresses, None
            )

    def drop(self, endpoint_id: EndpointId) -> None:
        """Forget an endpoint that is gone."""
        self._depart(endpoint_id)
        self._states.pop(endpoint_id, None)

    def _depart(self, endpoint_id: EndpointId) -> None:
        """Remember a source that is none any more."""
        before = self._states.get(endpoint_id)
        if before is not None and before.phase is Phase.SOURCE and before.move is not None:
            self.departures.note(endpoint_id, before.move)

    def announce(self, endpoint_id: EndpointId) -> bool:
        """Note a sign of the workload; return whether it means that it has arrived."""
        state = self._states.get(endpoint_id)
        if state is None or state.phase is not Phase.TARGET:
            return False
        state.phase = Phase.LIVE
        assert state.move is not None  # as long as it is a target
        self._fresh[endpoint_id] = Arrival(state.interface, state.move)
        return True

    def fresh(self) -> dict[EndpointId, Move]:
        """Return by which migrations workloads have arrived since `take_fresh`."""
        return {endpoint_id: arrival.move for endpoint_id, arrival in self._fresh.items()}

    def take_fresh(self) -> dict[EndpointId, Arrival]:
        """Return whose workloads have arrived since the last call."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    def rivals_gone(self, endpoint_id: EndpointId) -> bool:
        """Let a source yield, as nobody else is known to have its addresses; return whether that is news."""
        state = self._states.get(endpoint_id)
        if state is None or state.stands is None:
            return False
        state.stands = state.until = None
        return True

    def waiting(self) -> dict[EndpointId, frozenset[str]]:
        """Return the addresses of the sources that wait for older news to be over."""
        states = self._states.items()
        return {e: s.addresses for e, s in states if s.stands is not None and not _has_left(s)}

    def tick(self, now: float) -> list[EndpointId]:
        """Return the endpoints whose convergence or wait has ended; begin to count for those that have just begun."""
        self.departures.tick(now)
        ended = []
        for endpoint_id, state in self._states.items():
            if state.phase is not Phase.CONVERGE and state.stands is None:
                continue
            if state.until is None:
                state.until = now + (PATIENCE_S if state.move else self.convergence_s)
            if state.until <= now:
                ended.append(endpoint_id)
        for endpoint_id in ended:
            if not self.rivals_gone(endpoint_id):
                self._settle(endpoint_id)
        return ended

    def _settle(self, endpoint_id: EndpointId) -> None:
        """Let convergence be over."""
        state = self._states[endpoint_id]
        if self.with_bgp:
            state.phase, state.until = Phase.SETTLED, None
        else:
            del self._states[endpoint_id]

    @property
    def due_at(self) -> float | None:
        """When the next convergence or wait ends, or somebody is forgotten; None when nothing is counted."""
        ends = [self.departures.due_at, *(state.until for state in self._states.values())]
        return min((at for at in ends if at is not None), default=None)

    def phase(self, endpoint_id: EndpointId) -> Phase | None:
        """Return the endpoint's phase; None for one that stays."""
        state = self._states.get(endpoint_id)
        return None if state is None else state.phase

    def move_of(self, endpoint_id: EndpointId) -> Move | None:
        """Return the endpoint's part in a migration that lasts."""
        state = self._states.get(endpoint_id)
        return None if state is None else state.move

    def source_of(self, endpoint_id: EndpointId, migration: str) -> Move | None:
        """Return the endpoint's part as the source of a migration, also of one that has just ended."""
        move = self.move_of(endpoint_id)
        if move is not None and (move.role, move.migration) == ("source", migration):
            return move
        return self.departures.move_of(endpoint_id, migration)

    def priority(self, endpoint_id: EndpointId, address: str) -> int | None:
        """Return the priority of the route to an address of the endpoint; None: it has no route here."""
        state = self._states.get(endpoint_id)
        if state is None or address not in state.addresses:
            return NORMAL
        if state.phase is Phase.TARGET:
            return None
        if state.phase is not Phase.SOURCE:
            return SETTLED if state.phase is Phase.SETTLED else ELEVATED
        if _has_left(state):
            return None
        return YIELDING if state.stands is None else state.stands

    def expected(self) -> dict[EndpointId, frozenset[str]]:
        """Return the addresses of the endpoints whose workload is still to arrive."""
        return {e: s.addresses for e, s in self._states.items() if s.phase is Phase.TARGET}

    def targets(self) -> dict[EndpointId, Move]:
        """Return the parts of the endpoints whose workload is still to arrive."""
        states = self._states.items()
        return {e: s.move for e, s in states if s.phase is Phase.TARGET and s.move is not None}

    def arrived(self) -> tuple[MovedHere, ...]:
        """Return the endpoints whose workload has arrived while the migration lasts, as calc is told."""
        return tuple(
            sorted(
                MovedHere(endpoint_id, state.move.migration)
                for endpoint_id, state in self._states.items()
                if state.phase is Phase.LIVE and state.move is not None
            )
        )


def _at(standing: Mapping[str, int], priority: int) -> frozenset[str]:
    """Return the addresses whose routes stand at a priority."""
    return frozenset(address for address, its in standing.items() if its == priority)


def _has_left(source: _State) -> bool:
    """Tell whether it is known that the workload of a source has gone."""
    return source.move is not None and source.move.switched


def _part(state: _State | None) -> tuple[str, str] | None:
    """Return what an endpoint was in which migration."""
    return None if state is None or state.move is None else (state.move.role, state.move.migration)


def _is_live(before: _State | None, move: Move) -> bool:
    """Tell whether the workload has arrived by this very migration."""
    return (
        before is not None
        and before.phase is Phase.LIVE
        and before.move is not None
        and before.move.migration == move.migration
    )
