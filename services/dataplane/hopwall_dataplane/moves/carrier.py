"""Brings the flows of a workload along: asks the source's agent at the switch, and answers as the source.

Refuses to hold anything up: the route stands already, and where nobody answers in time, or the bus is away,
no flows come along; then the next packet of each is a first one, which policy judges.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Set
from dataclasses import dataclass, field
from typing import Any

from hopwall_dataplane.conntrack.carry import MAX_FLOWS, carried, taken
from hopwall_dataplane.conntrack.codec import is_established
from hopwall_dataplane.conntrack.driver import ConntrackDriver
from hopwall_dataplane.conntrack.flow import Flow
from hopwall_dataplane.conntrack.judging import judgement_of
from hopwall_dataplane.desired import Desired
from hopwall_dataplane.moves.notes import Notes
from hopwall_dataplane.moves.phases import Phase
from hopwall_dataplane.residents import packed
from hopwall_model import codec, topics
from hopwall_model.flows import CarriedFlow, CarriedFlows, FlowsRequest
from hopwall_model.updates import EndpointId, Move
from hopwall_runtime import clock
from hopwall_runtime.link import Link, Unavailable

log = logging.getLogger(__name__)

#: How long the source's agent is asked at the switch, before and after what it said before is taken instead.
_SOON_S, _ANSWER_TIME_S = 0.5, 3.0
#: Between two questions; calc's word that makes it a source may be on its way.
_PAUSE_S = 0.05
#: For a workload that comes back at once: what it had here before is ended first.
_ENDING_TIME_S = 10.0
_decode = codec.decoder(CarriedFlows)


@dataclass(slots=True)
class Carrier:
    """The flows that come with workloads, and those that go.

    Owner: the agent's loop. Between two parts of a table the agent goes on.
    """

    host: str
    desired: Desired
    link: Link
    #: Whether flows of these (packed) addresses are still being ended, from when they left this host.
    is_ending: Callable[[Set[bytes]], bool] = lambda _: False
    driver: ConntrackDriver = field(default_factory=ConntrackDriver)
    notes: Notes = field(default_factory=Notes)
    #: Of who is to arrive: the migration, and the flows as of when it was declared.
    _known: dict[EndpointId, tuple[str, tuple[CarriedFlow, ...]]] = field(default_factory=dict)
    _fetching: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self) -> None:
        """Answer the hosts to which workloads of this one move."""
        subject = topics.flows_subject(self.host, "*")
        await self.link.serve_chunked(topics.FLOWS, subject, self._answer)

    def expect(self, expected: dict[EndpointId, Move]) -> None:
        """Learn the flows of workloads that are to arrive; the source may be gone when they do."""
        for endpoint_id, move in expected.items():
            if self._known.get(endpoint_id, ("", ()))[0] != move.migration:
                self._known[endpoint_id] = (move.migration, ())
                self._begin(self._learn(endpoint_id, move), endpoint_id)

    def resume(self) -> None:
        """Fetch the flows that an agent before this one did not live to fetch."""
        for endpoint_id, move in self.notes.take().items():
            if self.desired.moves.phase(endpoint_id) in (Phase.LIVE, Phase.CONVERGE):
                self.fetch({endpoint_id: move})
            else:
                self.notes.drop(endpoint_id, move)

    def fetch(self, arrivals: dict[EndpointId, Move]) -> None:
        """Begin to fetch the flows of workloads that have just arrived."""
        for endpoint_id, move in arrivals.items():
            self._begin(self._fetch(endpoint_id, move), endpoint_id)

    def _begin(self, work: Coroutine[Any, Any, None], endpoint_id: EndpointId) -> None:
        # A loop method, not a TaskGroup: nobody waits for it, and a failure is its own to report.
        task = asyncio.get_running_loop().create_task(work, name=f"flows of {endpoint_id}")
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _learn(self, endpoint_id: EndpointId, move: Move) -> None:
        flows = await self._ask(move, _ANSWER_TIME_S)
        if flows and self._known.get(endpoint_id, ("", ()))[0] == move.migration:
            self._known[endpoint_id] = (move.migration, flows)

    async def _ask(self, move: Move, time_s: float) -> tuple[CarriedFlow, ...] | None:
        """Return what the source's agent tracks now; None when it does not answer in time."""
        request = FlowsRequest(host=self.host, endpoint=move.peer, migration=move.migration)
        subject = topics.flows_subject(move.host, self.host)
        until = clock.monotonic() + time_s
        said = "it does not know of the migration"
        while (left := until - clock.monotonic()) > 0:
            try:
                answer = _decode(await self.link.request_chunked(subject, request, timeout_s=left))
            except (Unavailable, codec.CodecError) as error:
                said = str(error)
            else:
                if answer.known:
                    return answer.flows
            await asyncio.sleep(_PAUSE_S)
        log.info("host %s tells no flows of endpoint %s: %s", move.host, move.peer, said)
        return None

    async def _fetch(self, endpoint_id: EndpointId, move: Move) -> None:
        """Take what the source tracks now; as long as it is silent, what it tracked before the switch."""
        migration, known = self._known.pop(endpoint_id, ("", ()))
        flows = await self._ask(move, _SOON_S)
        try:
            if flows is None:
                if migration == move.migration:
                    await self._take(endpoint_id, move, known)
                flows = await self._ask(move, _ANSWER_TIME_S)
            if flows is not None:
                await self._take(endpoint_id, move, flows)
        except OSError as error:  # TimeoutError is one
            log.info("no flows came with the workload of endpoint %s: %s", endpoint_id, error)
        self.notes.drop(endpoint_id, move)

    async def _until_ended(self, shared: Set[bytes]) -> None:
        """Wait until what these addresses had here before is forgotten.

        Errors: TimeoutError.
        """
        until = clock.monotonic() + _ENDING_TIME_S
        while self.is_ending(shared):
            if clock.monotonic() > until:
                raise TimeoutError("the flows it had here before have not been ended")
            await asyncio.sleep(0.01)

    async def _take(
        self, endpoint_id: EndpointId, move: Move, flows: tuple[CarriedFlow, ...]
    ) -> None:
        """Make flows known to the kernel, those of the addresses that still are here.

        Errors: OSError.
        """
        shared = {packed(cidr) for cidr in move.addresses}
        await self._until_ended(shared)
        here = shared & self.desired.residents.classes.keys()
        names = {index: name for name, index in self.desired.link_indices.items()}
        host, ways = self.driver.host_addresses(), self.driver.ways(names)
        judge = judgement_of(self.desired, host, ways)
        n_made = self.driver.create(taken(flows, here, judge.is_denied))
        log.info("%d of %d flows came with endpoint %s", n_made, len(flows), endpoint_id)

    async def _answer(self, request: FlowsRequest, subject: str) -> bytes | None:
        """Answer with the flows of an endpoint that moves to who asks, and of no other.

        A host's credential lets it ask on its own subject only.
        """
        if subject != topics.flows_subject(self.host, request.host):
            return None
        moves = self.desired.moves
        move = moves.source_of(request.endpoint, request.migration)
        if move is None or move.host != request.host:
            return codec.encode(CarriedFlows(host=self.host))
        try:
            flows = await self._flows(move)
        except OSError as error:
            log.warning("the flows of endpoint %s cannot be read: %s", request.endpoint, error)
            flows = {}
        # After the table: what is ended while it is read is in the one or in the other.
        flows |= dict.fromkeys(moves.departures.flows(request.endpoint, request.migration))
        told = tuple(itertools.islice(flows, MAX_FLOWS))
        return codec.encode(CarriedFlows(host=self.host, known=True, flows=told))

    async def _flows(self, move: Move) -> dict[CarriedFlow, None]:
        watched = {packed(cidr) for cidr in move.addresses}
        found: dict[CarriedFlow, None] = {}
        for flows, _ in self.driver.read(watched):
            told = (self._carried(flow) for flow in flows)
            found |= dict.fromkeys(one for one in told if one is not None)
            if len(found) >= MAX_FLOWS:
                break
            await asyncio.sleep(0)
        return found

    def _carried(self, flow: Flow) -> CarriedFlow | None:
        revoked = self.desired.settings.marks.revoked
        is_revoked = flow.mark & revoked == revoked
        return carried(flow, established=is_established(flow), revoked=is_revoked)

    def on_ended(self, flow: Flow) -> None:
        """Keep a flow that has been ended here as its address left: the new host may still ask for it."""
        one = self._carried(flow)
        if one is not None:
            self.desired.moves.departures.keep(flow.ends, one)

    async def close(self) -> None:
        """End what is still being fetched, and let go of the driver."""
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)
        self.driver.close()
