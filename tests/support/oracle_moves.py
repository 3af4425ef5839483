"""The dumb recompute of live migrations: who moves where, and who of many claimants has an address.

Written against the documents: everybody is asked about everybody.
"""

from collections.abc import Iterable, Sequence

from hopwall_model import selectors
from hopwall_model.migration_specs import WorkloadEndpointIdentifier, WorkloadIdentifier
from hopwall_model.resources import LiveMigration, WorkloadEndpoint
from hopwall_model.updates import EndpointId, Move
from tests.support.oracle_values import single

Reference = WorkloadIdentifier | WorkloadEndpointIdentifier
#: Host → (endpoint, migration) that it says have arrived.
Arrivals = dict[str, set[tuple[str, str]]]


class MoveOracle:
    """Answers for one set of endpoints and migrations; `labels` are those an endpoint is selected by."""

    def __init__(
        self,
        endpoints: Sequence[WorkloadEndpoint],
        migrations: Sequence[LiveMigration],
        labels: dict[str, dict[str, str]],
        arrivals: Arrivals,
    ) -> None:
        self.endpoints = endpoints
        self.migrations = migrations
        self.labels = labels
        self.arrivals = arrivals
        self._claimants: dict[str, list[WorkloadEndpoint]] = {}
        for endpoint in endpoints:
            for address in dict.fromkeys(claimed(endpoint)):
                self._claimants.setdefault(address, []).append(endpoint)

    # ------------------------------------------------------------ who has an address

    def winner(self, address: str) -> WorkloadEndpoint:
        """Return whose the address is, migrations apart."""
        claimants = self._claimants[address]
        oldest = min(claimants, key=lambda e: (_age(e), _name(e)))
        same = [e for e in claimants if e is oldest or is_one_workload(e, oldest)]
        best = same[0]
        for other in same[1:]:
            mine, its = (_generation(best), _age(best)), (_generation(other), _age(other))
            if its > mine or (its == mine and _name(other) < _name(best)):
                best = other
        return best

    def owners(self, address: str) -> list[WorkloadEndpoint]:
        """Return who has the address: one, or the two between which it moves."""
        winner = self.winner(address)
        part = self.part(winner)
        if part is None or address not in claimed(part[2]):
            return [winner]
        return [winner, part[2]]

    # ------------------------------------------------------------ migrations

    def move(self, endpoint: WorkloadEndpoint, owned: Iterable[str]) -> Move | None:
        """Return the endpoint's part in a migration as its host is told."""
        part = self.part(endpoint)
        if part is None:
            return None
        role, migration, peer = part
        shared = sorted(set(owned) & set(claimed(peer)))
        if not shared:
            return None
        return Move(
            role="source" if role == "source" else "target",
            migration=_id(migration),
            peer=EndpointId(_name(peer)),
            host=peer.spec.node,
            addresses=tuple(shared),
            switched=self._is_switched(migration, peer if role == "source" else endpoint),
        )

    def part(
        self, endpoint: WorkloadEndpoint
    ) -> tuple[str, LiveMigration, WorkloadEndpoint] | None:
        """Return role, migration and peer, if the peer is of the same opinion."""
        mine, its = self._last(endpoint), None
        if mine is not None:
            its = self._last(mine[2])
        return mine if its is not None and its[2] is endpoint else None

    def _last(
        self, endpoint: WorkloadEndpoint
    ) -> tuple[str, LiveMigration, WorkloadEndpoint] | None:
        found = None
        for migration in sorted(self.migrations, key=_declared_at):
            for source, target in self.pairs(migration):
                if source is endpoint:
                    found = ("source", migration, target)
                if target is endpoint:
                    found = ("target", migration, source)
        return found

    def pairs(self, migration: LiveMigration) -> list[tuple[WorkloadEndpoint, WorkloadEndpoint]]:
        """Return the pairs of a migration, without those that are not clear."""
        near = [e for e in self.endpoints if e.metadata.namespace == migration.metadata.namespace]
        source, target = migration.spec.source, migration.spec.target
        from_ = source.workload or source.workload_endpoint
        assert from_ is not None
        sources = [e for e in near if _refers(from_, e)]
        if target.workload_endpoint is not None:
            targets = [e for e in near if _refers(target.workload_endpoint, e)]
        else:
            selector = selectors.parse(target.selector)
            targets = [e for e in near if selector.matches(self.labels[_name(e)])]
        both = [
            (s, t)
            for s in sources
            for t in targets
            if not any(t is other for other in sources)
            and s.spec.node != t.spec.node
            and set(claimed(s)) & set(claimed(t))
        ]
        return [
            (s, t)
            for s, t in both
            if len([1 for x, _ in both if x is s]) == len([1 for _, y in both if y is t]) == 1
        ]

    def _is_switched(self, migration: LiveMigration, target: WorkloadEndpoint) -> bool:
        if migration.metadata.annotations.get("hopwall.io/switch") == "true":
            return True
        return (_name(target), _id(migration)) in self.arrivals.get(target.spec.node, set())


def claimed(endpoint: WorkloadEndpoint) -> list[str]:
    """Return every address the endpoint claims."""
    return [*endpoint.spec.ip_networks, *(single(n.external_ip) for n in endpoint.spec.ip_nats)]


def _refers(reference: Reference, endpoint: WorkloadEndpoint) -> bool:
    spec = endpoint.spec
    workload = spec.workload or (f"{endpoint.metadata.namespace}/{spec.pod}" if spec.pod else "")
    if (reference.orchestrator_id, reference.workload_id) != (spec.orchestrator, workload):
        return False
    if reference.orchestrator_id != "k8s" and reference.hostname != spec.node:
        return False
    if isinstance(reference, WorkloadEndpointIdentifier):
        return reference.endpoint_id == spec.endpoint
    return True


def is_one_workload(a: WorkloadEndpoint, b: WorkloadEndpoint) -> bool:
    """Tell whether both are endpoints of one workload."""

    def identity(e: WorkloadEndpoint) -> tuple[str | None, ...]:
        workload = e.spec.workload or (e.spec.pod and f"{e.metadata.namespace}/{e.spec.pod}")
        return (e.metadata.namespace, e.spec.orchestrator, workload, e.spec.endpoint)

    return bool(identity(a)[2]) and identity(a) == identity(b)


def _declared_at(migration: LiveMigration) -> tuple[str, str, str]:
    meta = migration.metadata
    return meta.creation_timestamp or "~", meta.namespace or "", meta.name


def _id(migration: LiveMigration) -> str:
    meta = migration.metadata
    return f"{meta.namespace}/{meta.name}/{meta.uid or ''}"


def _name(endpoint: WorkloadEndpoint) -> str:
    return f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"


def _age(endpoint: WorkloadEndpoint) -> str:
    return endpoint.metadata.creation_timestamp or "~"


def _generation(endpoint: WorkloadEndpoint) -> int:
    return int(endpoint.metadata.annotations.get("hopwall.io/move-generation", "0"))
