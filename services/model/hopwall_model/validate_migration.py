"""Live migrations: what `validate` checks of them."""

from hopwall_model import validate_fields as check
from hopwall_model.migration_specs import (
    UNIQUE_ORCHESTRATOR,
    LiveMigrationSpec,
    WorkloadEndpointIdentifier,
    WorkloadIdentifier,
)
from hopwall_model.problems import Code, Findings, step


def live_migration(found: Findings, pointer: str, spec: LiveMigrationSpec) -> LiveMigrationSpec:
    """Check a migration; nothing of it has more than one form."""
    source, target = spec.source, spec.target
    place = step(pointer, "source")
    if (source.workload is None) == (source.workload_endpoint is None):
        found.add(place, "Give exactly one of workload and workloadEndpoint.", Code.CONFLICT)
    if source.workload is not None:
        _identifier(found, step(place, "workload"), source.workload)
    if source.workload_endpoint is not None:
        _endpoint(found, step(place, "workloadEndpoint"), source.workload_endpoint)
    place = step(pointer, "target")
    if (not target.selector) == (target.workload_endpoint is None):
        found.add(place, "Give exactly one of selector and workloadEndpoint.", Code.CONFLICT)
    if target.selector:
        check.selector(found, step(place, "selector"), target.selector)
    if target.workload_endpoint is not None:
        _endpoint(found, step(place, "workloadEndpoint"), target.workload_endpoint)
        if target.workload_endpoint == source.workload_endpoint:
            found.add(place, "The target is the source; name another endpoint.", Code.CONFLICT)
    return spec


def _endpoint(found: Findings, pointer: str, given: WorkloadEndpointIdentifier) -> None:
    _identifier(found, pointer, given)
    _text(found, step(pointer, "endpointID"), given.endpoint_id)


def _identifier(
    found: Findings, pointer: str, given: WorkloadIdentifier | WorkloadEndpointIdentifier
) -> None:
    _text(found, step(pointer, "workloadID"), given.workload_id)
    check.short_text(found, step(pointer, "orchestratorID"), given.orchestrator_id)
    place = step(pointer, "hostname")
    if given.hostname:
        check.name(found, place, given.hostname)
    elif given.orchestrator_id != UNIQUE_ORCHESTRATOR:
        found.add(place, "Name the host, as in the endpoint's spec.node.", Code.MISSING)


def _text(found: Findings, pointer: str, text: str) -> None:
    if not text:
        found.add(pointer, "This must not be empty.", Code.MISSING)
    check.short_text(found, pointer, text)
