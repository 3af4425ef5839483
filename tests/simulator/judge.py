"""What a host's kernel does with packets, held at every moment against all that may be true at it.

While a change is under way either state is right, and nothing else is. A packet that came through must come through
in one of the states from the last that the host enforces to the newest stored: a mixture of them excuses nothing
(`open`). One that did not come through is `closed` for nothing where every one of these states lets it by; but where
several things changed it may meet a mixture, and where one thing changed its endpoint may be nobody for that moment:
when the policies that apply to it become others, or when somebody moves between sets (decision 30).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random

from hopwall_model.resources import Key, Resource, WorkloadEndpoint
from tests.proof.cloud import Flow, Verdict, address, network
from tests.proof.semantics import Semantics, only_log
from tests.proof.strategies import flows_in

State = Mapping[Key, Resource]
#: Who is in sets: what changes of them moves members.
_BEARERS = frozenset({"WorkloadEndpoint", "Profile", "NetworkSet", "GlobalNetworkSet"})


@dataclass(frozen=True, eq=False)
class Probe:
    """A packet at one end of its flow, at the host where that end is. Each is itself alone."""

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
        self._said: dict[tuple[int, Probe], Verdict] = {}

    def put(self, state: State) -> None:
        """Note the state at the next revision."""
        self.states.append(dict(state))

    @property
    def newest(self) -> int:
        """The last revision."""
        return len(self.states) - 1

    def explains(
        self, probe: Probe, verdict: Verdict, floor: int, *, by_nobody: bool = False
    ) -> bool:
        """Tell whether the verdict may be given now; `by_nobody` where the packet's address is nobody's."""
        if any(self._says(r, probe) == verdict for r in range(floor, self.newest + 1)):
            return True
        if verdict == "allow":
            return False
        changed = self._changed(floor)
        if len(changed) > 1:
            return True
        return by_nobody and any(self._may_close(probe, key, floor) for key in changed)

    def _changed(self, floor: int) -> set[Key]:
        states = self.states[floor:]
        return {
            key
            for before, after in pairwise(states)
            for key in {*before, *after}
            if before.get(key) != after.get(key)
        }

    def _may_close(self, probe: Probe, key: Key, floor: int) -> bool:
        """Tell whether an endpoint may be nobody while this changes: who moves between sets, or what applies to it."""
        if key.kind in _BEARERS:
            return True
        revisions = range(floor, self.newest + 1)
        lists = [_applying(self._semantics_at(revision), probe) for revision in revisions]
        return any(before != after for before, after in pairwise(lists))

    def _says(self, revision: int, probe: Probe) -> Verdict:
        said = self._said.get((revision, probe))
        if said is None:
            said = self._said[revision, probe] = _says(self._semantics_at(revision), probe)
        return said

    def _semantics_at(self, revision: int) -> Semantics:
        semantics = self._semantics.get(revision)
        if semantics is None:
            state = self.states[revision]
            semantics = self._semantics[revision] = Semantics(tuple(state.values()))
        return semantics


def _applying(semantics: Semantics, probe: Probe) -> object:
    """Return the names of what applies to an endpoint, in order, whether each tier exists, and what is at its end.

    Of both directions, as its class is of both.
    """
    owner = semantics.endpoints.get(probe.endpoint)
    if owner is None:
        return None
    names = [
        (
            name,
            semantics.tier_exists(name),
            passes or only_log(policies, direction),
            [(type(p), p.metadata.namespace, p.metadata.name) for p in policies],
        )
        for direction in ("Egress", "Ingress")
        for name, passes, policies in semantics.tiers_of(owner, direction)
    ]
    return names, owner.spec.profiles


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


@cache
def _span(cidr: str) -> tuple[int, int, int]:
    """Return the family of a network, and its first and last address."""
    net = network(cidr)
    return net.version, int(net[0]), int(net[-1])


@cache
def _place(text: str) -> tuple[int, int]:
    one = address(text)
    return one.version, int(one)


def is_about(flow: Flow, cidr: str) -> bool:
    """Tell whether one end of a packet is in a network."""
    version, first, last = _span(cidr)
    for text in (flow.source, flow.destination):
        of, number = _place(text)
        if of == version and first <= number <= last:
            return True
    return False
