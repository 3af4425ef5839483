"""unpaired: the live migrations that move nobody, and why; somebody should be told (`CalcStatus`)."""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput
from hopwall_calc.intake_migration import MigrationInput, Reference
from hopwall_calc.nodes.claims import claimed
from hopwall_calc.nodes.labels import Labels
from hopwall_calc.nodes.migrations import Migrations
from hopwall_model.resources import Key


class Unpaired(KeyedNode[Key, str]):
    """Migration without a pair → why it has none, in one sentence."""

    name = "unpaired"

    def __init__(
        self,
        migrations: Migrations,
        declared: KeyedNode[Key, MigrationInput],
        endpoints: KeyedNode[Key, EndpointInput],
        labels: Labels,
    ) -> None:
        super().__init__()
        self._pairing = migrations
        self._migrations = migrations.out
        self._declared = declared.out
        self._endpoints = endpoints.out
        self._labels = labels.out

    def on_migrations(self) -> Answer:
        """Mark the migrations that have other pairs."""
        return self.mark(self._migrations.changed)

    def on_declared(self) -> Answer:
        """Mark the changed migrations."""
        return self.mark(self._declared.changed)

    def on_endpoints(self) -> Answer:
        """Mark all that have no pair, as the reason may be another one now."""
        return self._mark_all() if self._endpoints.changed else Answer.UNAFFECTED

    def on_labels(self) -> Answer:
        """Mark all that have no pair: a selector may mean somebody else."""
        return self._mark_all() if self._labels.changed else Answer.UNAFFECTED

    def _mark_all(self) -> Answer:
        without = [key for key in self._declared if key not in self._migrations]
        return self.mark(without) if without else Answer.UNAFFECTED

    def keys(self) -> Iterable[Key]:
        """Return every migration."""
        return self._declared

    def compute(self, key: Key) -> str | None:
        """Return why the migration moves nobody; None when it moves somebody."""
        migration = self._declared.get(key)
        if migration is None or key in self._migrations:
            return None
        sources = self._named(migration.source)
        if not sources:
            return f"No endpoint is its source: {_described(migration.source)} is not declared."
        if migration.target is not None:
            targets = self._named(migration.target)
            wanted = f"{_described(migration.target)} is not declared."
        else:
            assert migration.selector is not None
            selector = migration.selector
            targets = {
                other: self._endpoints.values[other]
                for source in sources
                for other in self._pairing.partners(source)
                if selector.matches(self._labels.get(other) or {})
            }
            wanted = (
                "target.selector matches none that has an address of the source on another host."
            )
        others = [endpoint for k, endpoint in targets.items() if k not in sources]
        if not others:
            return f"No endpoint is its target: {wanted}"
        return _why_not(list(sources.values()), others)

    def _named(self, reference: Reference) -> dict[Key, EndpointInput]:
        keys = self._pairing.named(reference)
        return {key: self._endpoints.values[key] for key in keys}


def _why_not(sources: list[EndpointInput], targets: list[EndpointInput]) -> str:
    """Say why endpoints that are there make no pair."""
    pairs = [
        (source, target)
        for source in sources
        for target in targets
        if set(claimed(source)) & set(claimed(target))
    ]
    if not pairs:
        return "Its source and target have no address together; give the target the source's ipNetworks."
    if all(source.host == target.host for source, target in pairs):
        return f"Its source and target are on one host, {pairs[0][0].host}; it moves between two."
    return "It is not clear which source belongs to which target: an endpoint shares addresses with several."


def _described(reference: Reference) -> str:
    _, orchestrator, workload = reference.workload
    text = f"workload {workload} of orchestrator {orchestrator}"
    if reference.endpoint is not None:
        text += f", endpoint {reference.endpoint}"
    return f"{text} on host {reference.host}" if reference.host else text
