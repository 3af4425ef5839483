"""migrations: the endpoints between which each declared live migration moves a workload.

A source and a target are a pair when they claim an address together, on different hosts. Where it is not clear
who belongs to whom there is no pair: then the address has one owner, as if nobody had declared anything.
"""

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput
from hopwall_calc.intake_migration import MigrationInput, Reference, WorkloadId
from hopwall_calc.nodes.claims import Claims, claimed
from hopwall_calc.nodes.labels import Labels
from hopwall_model.resources import Key


class Pair(Struct, frozen=True, gc=False, order=True):
    """The two endpoints of one interface that moves."""

    source: Key
    target: Key


class Migrations(KeyedNode[Key, tuple[Pair, ...]]):
    """Migration → its pairs."""

    name = "migrations"

    def __init__(
        self,
        declared: KeyedNode[Key, MigrationInput],
        endpoints: KeyedNode[Key, EndpointInput],
        claims: Claims,
        labels: Labels,
    ) -> None:
        super().__init__()
        self._declared = declared.out
        self._endpoints = endpoints.out
        self._claims = claims.out
        self._labels = labels.out
        #: Workload → the endpoints it has, of those that name one; and the migrations it is the source of.
        self._at: defaultdict[WorkloadId, set[Key]] = defaultdict(set)
        self._from: defaultdict[WorkloadId, set[Key]] = defaultdict(set)

    def on_declared(self) -> Answer:
        """Mark the changed migrations."""
        for key, old in self._declared.changed.items():
            new = self._declared.get(key)
            if old is not None:
                _drop(self._from, old.source.workload, key)
            if new is not None:
                self._from[new.source.workload].add(key)
        return self.mark(self._declared.changed)

    def on_endpoints(self) -> Answer:
        """Mark the migrations of the changed endpoints, and of those that share an address with them."""
        dirty: set[Key] = set()
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            if old is not None and old.workload:
                _drop(self._at, workload_of(old), key)
            if new is not None and new.workload:
                self._at[workload_of(new)].add(key)
            if self._from:
                dirty.update(self._concerned(old))
                dirty.update(self._concerned(new))
        return self.mark(dirty)

    def on_claims(self) -> Answer:
        """Leave it to `on_endpoints`: claims change with endpoints alone."""
        return Answer.UNAFFECTED

    def on_labels(self) -> Answer:
        """Mark the migrations in which the changed endpoints might be a target."""
        if not self._from:
            return Answer.UNAFFECTED
        changed = self._labels.changed
        return self.mark(
            migration for key in changed for migration in self._concerned(self._endpoints.get(key))
        )

    def _concerned(self, endpoint: EndpointInput | None) -> Iterable[Key]:
        """Return the migrations from the endpoint's workload, or from who claims an address of its."""
        if endpoint is None:
            return
        yield from self._from.get(workload_of(endpoint), ())
        for address in claimed(endpoint):
            for other in self._claims.get(address) or ():
                yield from self._from.get(workload_of(self._endpoints.values[other]), ())

    def rebuild(self) -> None:
        """Collect the workloads anew."""
        self._at.clear()
        self._from.clear()
        for key, endpoint in self._endpoints.values.items():
            if endpoint.workload:
                self._at[workload_of(endpoint)].add(key)
        for key, migration in self._declared.values.items():
            self._from[migration.source.workload].add(key)

    def keys(self) -> Iterable[Key]:
        """Return every migration."""
        return self._declared

    def compute(self, key: Key) -> tuple[Pair, ...] | None:
        """Return the migration's pairs; None while it has none."""
        migration = self._declared.get(key)
        if migration is None:
            return None
        candidates = {
            Pair(source, target)
            for source in self.named(migration.source)
            for target in self.partners(source)
            if self._is_target(migration, target)
        }
        sources = [pair.source for pair in candidates]
        targets = [pair.target for pair in candidates]
        return (
            tuple(
                sorted(
                    pair
                    for pair in candidates
                    if sources.count(pair.source) == 1 and targets.count(pair.target) == 1
                )
            )
            or None
        )

    def named(self, reference: Reference) -> list[Key]:
        """Return the endpoints that a reference means."""
        return [
            key
            for key in sorted(self._at.get(reference.workload, ()))
            if _is_meant(reference, self._endpoints.values[key])
        ]

    def partners(self, source: Key) -> set[Key]:
        """Return who claims an address of the endpoint's on another host of its namespace's endpoints."""
        mine = self._endpoints.values[source]
        others = {k for a in claimed(mine) for k in self._claims.get(a) or ()}
        return {
            key
            for key in others
            if key.namespace == source.namespace and self._endpoints.values[key].host != mine.host
        }

    def _is_target(self, migration: MigrationInput, key: Key) -> bool:
        endpoint = self._endpoints.values[key]
        if workload_of(endpoint) == migration.source.workload and _is_meant(
            migration.source, endpoint
        ):
            return False
        if migration.target is not None:
            same = workload_of(endpoint) == migration.target.workload
            return same and _is_meant(migration.target, endpoint)
        assert migration.selector is not None
        return migration.selector.matches(self._labels.get(key) or {})


def workload_of(endpoint: EndpointInput) -> WorkloadId:
    """Return the workload whose interface this is."""
    return endpoint.namespace, endpoint.orchestrator, endpoint.workload


def _is_meant(reference: Reference, endpoint: EndpointInput) -> bool:
    """Tell whether an endpoint of the referred workload is the one that is meant."""
    return reference.host in ("", endpoint.host) and reference.endpoint in (None, endpoint.endpoint)


def _drop(index: dict[WorkloadId, set[Key]], workload: WorkloadId, key: Key) -> None:
    index[workload].discard(key)
    if not index[workload]:
        del index[workload]
