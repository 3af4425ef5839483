"""What a host's kernel does with packets, held at every moment against all that may be true at it.

While a change is under way either state is right. So a verdict is legal if the documents give it at one of the
revisions from the last that the host enforces to the newest stored; where several things changed meanwhile, also
if they give it for some of these changes without the others. An endpoint that becomes somebody else (its labels, its
policies) may be closed for that moment. What nothing explains is a fault: `open` (a packet came through) or
`closed` (it did not).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product
from random import Random

from hopwall_model.resources import Key, Resource, WorkloadEndpoint
from tests.proof.cloud import Flow, Verdict
from tests.proof.semantics import Semantics
from tests.proof.strategies import flows_in

State = Mapping[Key, Resource]
#: Of how many mixtures of changes the documents are asked at most.
MAX_MIXES = 256


@dataclass(frozen=True)
class Probe:
    """A packet at one end of its flow, at the host where that end is."""

    flow: Flow
    host: str
    #: "namespace/name".
    endpoint: str
    egress: bool


@dataclass(frozen=True)
class Fault:
    """A verdict that nothing explains."""

    probe: Probe
    kernel: Verdict
    floor: int
    newest: int
    trace: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Which side it is on."""
        return "open" if self.kernel == "allow" else "closed"

    @property
    def words(self) -> str:
        """Say it to a person."""
        flow, way = self.probe.flow, "out of" if self.probe.egress else "into"
        ports = f" {flow.source_port} to {flow.destination_port}" if flow.destination_port else ""
        last = "; ".join(line.partition(" -m comment")[0] for line in self.trace[-3:])
        return (
            f"{self.kind}, {way} {self.probe.endpoint} on {self.probe.host}: {flow.source} to {flow.destination}, "
            f"protocol {flow.protocol}{ports}, at revisions {self.floor} to {self.newest}; its way ended: {last}"
        )


class History:
    """Every revision's state, and what the documents say of packets in it."""

    def __init__(self) -> None:
        self.states: list[State] = [{}]
        self._semantics: dict[int, Semantics] = {}

    def put(self, state: State) -> None:
        """Note the state at the next revision."""
        self.states.append(dict(state))

    @property
    def newest(self) -> int:
        """The last revision."""
        return len(self.states) - 1

    def explains(self, probe: Probe, verdict: Verdict, floor: int) -> bool:
        """Tell whether any state that may be true gives the verdict."""
        if any(self._says(r, probe) == verdict for r in range(floor, self.newest + 1)):
            return True
        if self._is_changing(probe, floor, closed=verdict == "deny"):
            return True
        return any(_says(Semantics(mix), probe) == verdict for mix in self._mixes(floor))

    def _is_changing(self, probe: Probe, floor: int, *, closed: bool) -> bool:
        """Tell whether who the endpoint is may change meanwhile: it is closed until it is somebody else.

        For what comes through only its own labels and profiles count: the pieces of one change reach a host in
        several messages, and between two of them stands what no state says (ARCHITECTURE, known flaws).
        """
        states = self.states[floor:]
        changed = {
            key
            for before, after in pairwise(states)
            for key in {*before, *after}
            if before.get(key) != after.get(key)
        }
        own = any(key.kind == "Profile" or _id(key) == probe.endpoint for key in changed)
        return own or (closed and len(changed) > 1)

    def _says(self, revision: int, probe: Probe) -> Verdict:
        semantics = self._semantics.get(revision)
        if semantics is None:
            state = self.states[revision]
            semantics = self._semantics[revision] = Semantics(tuple(state.values()))
        return _says(semantics, probe)

    def _mixes(self, floor: int) -> Iterator[tuple[Resource, ...]]:
        """Yield states in which some of the changes are there and others are not yet."""
        versions: dict[Key, list[Resource | None]] = {}
        for state in self.states[floor:]:
            for key in {*versions, *state}:
                held = versions.setdefault(key, [])
                if state.get(key) not in held:
                    held.append(state.get(key))
        if sum(len(held) > 1 for held in versions.values()) < 2:
            return
        for chosen in islice(product(*versions.values()), MAX_MIXES):
            yield tuple(one for one in chosen if one is not None)


def _id(key: Key) -> str:
    return f"{key.namespace}/{key.name}" if key.kind == "WorkloadEndpoint" else ""


def _says(semantics: Semantics, probe: Probe) -> Verdict:
    """Return what the documents say of the packet at this end; of who is not there, that nothing passes."""
    owner = semantics.endpoints.get(probe.endpoint)
    if owner is None or owner.spec.node != probe.host:
        return "deny"
    if probe.egress:
        return semantics.leaving(owner, probe.flow).verdict
    if semantics.owners.get(probe.flow.destination) is not owner:
        return "deny"
    return semantics.decide(owner, probe.flow, "Ingress").verdict


def probes_of(state: State, chance: Random, n: int) -> list[Probe]:
    """Aim packets at a state, each at every end it has."""
    semantics = Semantics(tuple(state.values()))
    return list(_ends(semantics, flows_in(semantics, chance, n) if semantics.endpoints else ()))


def _ends(semantics: Semantics, flows: Iterable[Flow]) -> Iterator[Probe]:
    for flow in (one for one in flows if one.state == "NEW"):
        sender, receiver = semantics.sender(flow), semantics.owners.get(flow.destination)
        ends: Sequence[tuple[WorkloadEndpoint | None, bool]] = ((sender, True), (receiver, False))
        for endpoint, egress in ends:
            if endpoint is not None:
                key = f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"
                yield Probe(flow, endpoint.spec.node, key, egress)
