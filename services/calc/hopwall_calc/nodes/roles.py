"""roles: which endpoint is the source, and which the target, of a live migration.

An endpoint has one part at a time: where several migrations name it, the one declared last counts, and its
peer must say the same (`addresses`). Whether the workload has arrived is said by the migration itself, or by
the target's host; nobody else is believed.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput
from hopwall_calc.intake_migration import MigrationInput
from hopwall_calc.nodes.migrations import Migrations
from hopwall_model.resources import Key
from hopwall_model.status import MovedHere


class Role(Struct, frozen=True, gc=False):
    """An endpoint's part in a migration."""

    role: Literal["source", "target"]
    migration: str
    peer: Key
    switched: bool


class Roles(KeyedNode[Key, Role]):
    """Endpoint → its part; most have none."""

    name = "roles"

    def __init__(
        self,
        migrations: Migrations,
        declared: KeyedNode[Key, MigrationInput],
        endpoints: KeyedNode[Key, EndpointInput],
        moved: KeyedNode[str, frozenset[MovedHere]],
    ) -> None:
        super().__init__()
        self._migrations = migrations.out
        self._declared = declared.out
        self._endpoints = endpoints.out
        self._moved = moved.out
        #: Endpoint → the migrations that have it in a pair.
        self._parts: defaultdict[Key, set[Key]] = defaultdict(set)

    def on_migrations(self) -> Answer:
        """Mark the endpoints of the changed pairs."""
        dirty: set[Key] = set()
        for migration, old in self._migrations.changed.items():
            new = self._migrations.get(migration) or ()
            for pair in old or ():
                for key in (pair.source, pair.target):
                    self._parts[key].discard(migration)
                    if not self._parts[key]:
                        del self._parts[key]
                    dirty.add(key)
            for pair in new:
                for key in (pair.source, pair.target):
                    self._parts[key].add(migration)
                    dirty.add(key)
        return self.mark(dirty)

    def on_declared(self) -> Answer:
        """Mark the endpoints of migrations that were switched, or declared anew."""
        changed = self._declared.changed
        return self.mark(
            key
            for migration in changed
            for pair in self._migrations.get(migration) or ()
            for key in (pair.source, pair.target)
        )

    def on_endpoints(self) -> Answer:
        """Mark the endpoints that changed their host while they move, and their peers."""
        dirty: set[Key] = set()
        for key in self._endpoints.changed.keys() & self._parts.keys():
            for migration in self._parts[key]:
                for pair in self._migrations.get(migration) or ():
                    dirty.update((pair.source, pair.target))
        return self.mark(dirty)

    def on_moved(self) -> Answer:
        """Mark the endpoints of which a host says something else, and their peers."""
        dirty: set[Key] = set()
        for host, old in self._moved.changed.items():
            new = self._moved.get(host) or frozenset()
            for one in new ^ (old or frozenset()):
                namespace, _, name = one.endpoint.partition("/")
                key = Key("WorkloadEndpoint", namespace, name)
                for migration in self._parts.get(key, ()):
                    for pair in self._migrations.get(migration) or ():
                        dirty.update((pair.source, pair.target))
        return self.mark(dirty)

    def rebuild(self) -> None:
        """Collect who is in a pair anew."""
        self._parts.clear()
        for migration, pairs in self._migrations.values.items():
            for pair in pairs:
                self._parts[pair.source].add(migration)
                self._parts[pair.target].add(migration)

    def keys(self) -> Iterable[Key]:
        """Return the endpoints in pairs."""
        return tuple(self._parts)

    def compute(self, key: Key) -> Role | None:
        """Return the endpoint's part in the migration that was declared last."""
        migrations = self._parts.get(key)
        if not migrations:
            return None
        last = max(migrations, key=lambda m: (self._declared.values[m].created or "~", m))
        pair = next(p for p in self._migrations.values[last] if key in (p.source, p.target))
        migration = self._declared.values[last]
        return Role(
            role="source" if key == pair.source else "target",
            migration=migration.id,
            peer=pair.target if key == pair.source else pair.source,
            switched=migration.switched or self._has_arrived(pair.target, migration.id),
        )

    def _has_arrived(self, target: Key, migration: str) -> bool:
        endpoint = self._endpoints.values[target]
        arrived = self._moved.get(endpoint.host) or frozenset()
        return MovedHere(endpoint.id, migration) in arrived
