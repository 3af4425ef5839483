"""What calc keeps of live migrations, checked as `intake` does."""

import sys

from msgspec import Struct

from hopwall_calc.intake import checked
from hopwall_model import selectors, validate_migration
from hopwall_model.migration_specs import (
    SWITCH_ANNOTATION,
    UNIQUE_ORCHESTRATOR,
    WorkloadEndpointIdentifier,
    WorkloadIdentifier,
)
from hopwall_model.resources import LiveMigration
from hopwall_model.selectors import Selector

#: Namespace, orchestrator, workload.
WorkloadId = tuple[str, str, str]


class Reference(Struct, frozen=True, gc=False):
    """Endpoints of a workload. Without `endpoint` all of them, without `host` on any host."""

    workload: WorkloadId
    host: str = ""
    endpoint: str | None = None


class MigrationInput(Struct, frozen=True, kw_only=True):
    """What matters of a migration. Its target is named, or selected."""

    id: str
    created: str
    source: Reference
    target: Reference | None
    selector: Selector | None
    switched: bool


def live_migration(resource: LiveMigration) -> MigrationInput:
    """Return what matters of a live migration."""
    meta = resource.metadata
    spec = checked(validate_migration.live_migration, resource.spec)
    namespace = sys.intern(meta.namespace or "")
    source = spec.source.workload or spec.source.workload_endpoint
    assert source is not None  # it was checked
    target = spec.target.workload_endpoint
    return MigrationInput(
        id=f"{namespace}/{meta.name}/{meta.uid or ''}",
        created=meta.creation_timestamp or "",
        source=_reference(namespace, source),
        target=None if target is None else _reference(namespace, target),
        selector=selectors.parse(spec.target.selector) if spec.target.selector else None,
        switched=meta.annotations.get(SWITCH_ANNOTATION) == "true",
    )


def _reference(namespace: str, given: WorkloadIdentifier | WorkloadEndpointIdentifier) -> Reference:
    unique = given.orchestrator_id == UNIQUE_ORCHESTRATOR
    endpoint = given.endpoint_id if isinstance(given, WorkloadEndpointIdentifier) else None
    workload = (namespace, given.orchestrator_id, given.workload_id)
    return Reference(workload, "" if unique else given.hostname, endpoint)
