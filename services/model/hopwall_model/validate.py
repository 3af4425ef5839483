"""The one way in: `admit` turns what a user sent into a canonical resource, or into all its problems.

Three gates, each only reached by what passed the one before: the document is sound (`validate_json`),
it has the shape of a kind, and its values are valid (`validate_fields`, `validate_rules`,
`validate_kinds`). What it returns is canonical: admitting it again changes nothing.

Refuses to guess: an unknown field, an unknown kind or a field that is not carried out is a problem.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from hopwall_model import codec
from hopwall_model import resource_names as limits
from hopwall_model import validate_bgp as bgp
from hopwall_model import validate_fields as check
from hopwall_model import validate_ipam as ipam
from hopwall_model import validate_kinds as kinds
from hopwall_model import validate_migration as migrations
from hopwall_model import validate_rules as policies
from hopwall_model.migration_specs import (
    GENERATION_ANNOTATION,
    SWITCH_ANNOTATION,
    valid_generation,
)
from hopwall_model.problems import Code, Findings, Invalid, Problem, step
from hopwall_model.resources import (
    API_VERSION,
    KIND_BY_NAME,
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPAMBlock,
    IPAMConfiguration,
    IPPool,
    IPReservation,
    LiveMigration,
    Metadata,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    Resource,
    Tier,
    WorkloadEndpoint,
)
from hopwall_model.selectors import NAMESPACE_LABEL
from hopwall_model.validate_json import check_values, read_json, shape

__all__ = ["Code", "Invalid", "Problem", "admit"]


def admit(data: bytes | Mapping[str, Any], *, kind: type[Resource] | None = None) -> Resource:
    """Return the canonical resource that the document declares.

    With `kind` the document may leave its `kind` out, and may not be of another. `status` is dropped.

    Errors: `Invalid`, and nothing else, for any document.
    """
    found = Findings()
    given = read_json(found, data) if isinstance(data, bytes) else data
    found.stop()
    if not isinstance(given, Mapping):
        found.add("", "A resource is a JSON object.", Code.SHAPE)
        found.stop()
    document = given if isinstance(given, dict) else dict(given)
    check_values(found, document)
    found.stop()
    type_ = _kind(found, document, kind)
    found.stop()
    document = {name: value for name, value in document.items() if name not in ("kind", "status")}
    resource = shape(found, document, type_)
    if resource is not None:
        resource = _canonical(found, resource)
    found.stop()
    assert resource is not None
    if len(codec.encode(resource)) > limits.MAX_RESOURCE_BYTES:
        found.add("", f"A resource is at most {limits.MAX_RESOURCE_BYTES} bytes.", Code.LIMIT)
        found.stop()
    return resource


def _kind(
    found: Findings, document: Mapping[str, Any], wanted: type[Resource] | None
) -> type[Resource]:
    given = document.get("kind")
    if given is None and "kind" not in document and wanted is not None:
        return wanted
    known = KIND_BY_NAME.get(given) if isinstance(given, str) else None
    if known is not None and wanted in (None, known):
        return known
    names = " or ".join(KIND_BY_NAME)
    if "kind" not in document:
        found.add("/kind", f"Field 'kind' is required: {names}.", Code.MISSING)
    elif known is None or wanted is None:
        found.add("/kind", f"{str(given)[:64]!r} is not a kind; use {names}.", Code.SHAPE)
    else:
        reason = f"This place takes {wanted.__name__}, not {given}."
        found.add("/kind", reason, Code.CONFLICT)
    return known or Tier


def _canonical(found: Findings, resource: Resource) -> Resource:
    metadata = _metadata(found, type(resource), resource.metadata)
    spec: Any
    if isinstance(resource, Tier):
        spec = kinds.tier(found, "/spec", resource.metadata.name, resource.spec)
    elif isinstance(resource, BGPConfiguration):
        spec = bgp.configuration(found, "/spec", resource.metadata.name, resource.spec)
    elif isinstance(resource, IPAMBlock):
        spec = ipam.block(found, "/spec", resource.metadata.name, resource.spec)
    elif isinstance(resource, IPAMConfiguration):
        spec = ipam.configuration(found, "/spec", resource.metadata.name, resource.spec)
    else:
        spec = _SPECS[type(resource)](found, "/spec", resource.spec)
    return replace(resource, metadata=metadata, spec=spec, api_version=API_VERSION, status=None)


_SPECS: dict[type[Resource], Callable[[Findings, str, Any], Any]] = {
    WorkloadEndpoint: kinds.workload_endpoint,
    HostEndpoint: kinds.host_endpoint,
    NetworkPolicy: policies.policy,
    GlobalNetworkPolicy: policies.policy,
    NetworkSet: kinds.network_set,
    GlobalNetworkSet: kinds.network_set,
    Profile: policies.profile,
    IPPool: kinds.ip_pool,
    BGPPeer: bgp.peer,
    BGPFilter: bgp.bgp_filter,
    IPReservation: ipam.reservation,
    LiveMigration: migrations.live_migration,
    Node: kinds.node,
}


def _metadata(found: Findings, kind: type[Resource], metadata: Metadata) -> Metadata:
    place = "/metadata"
    # A tier's name has no dots: Calico puts it before the name of a policy, with a dot between.
    check_name = check.dns_label if kind is Tier else check.name
    check_name(found, step(place, "name"), metadata.name)
    namespace = metadata.namespace or None
    if kind.NAMESPACED:
        namespace = namespace or limits.DEFAULT_NAMESPACE
        check.dns_label(found, step(place, "namespace"), namespace)
    elif namespace is not None:
        reason = f"A {kind.__name__} belongs to no namespace; remove the field."
        found.add(step(place, "namespace"), reason, Code.CONFLICT)
    check.labels(found, step(place, "labels"), metadata.labels)
    _check_annotations(found, step(place, "annotations"), metadata.annotations)
    claimed = metadata.labels.get(NAMESPACE_LABEL)
    if claimed is not None and claimed != namespace:
        # Selectors of other namespaces' policies would take the resource for one of theirs.
        reason = f"The label {NAMESPACE_LABEL} is set by the system; remove it."
        found.add(step(step(place, "labels"), NAMESPACE_LABEL), reason, Code.CONFLICT)
    return replace(metadata, namespace=namespace)


def _check_annotations(found: Findings, pointer: str, annotations: dict[str, str]) -> None:
    for key in annotations:
        if not limits.valid_label_key(key):
            found.add(step(pointer, key), f"{key[:64]!r} is not an annotation's key.")
    generation = annotations.get(GENERATION_ANNOTATION, "0")
    if not valid_generation(generation):
        reason = f"{generation[:64]!r} is not a whole number of at most 18 digits."
        found.add(step(pointer, GENERATION_ANNOTATION), reason)
    if annotations.get(SWITCH_ANNOTATION, "true") not in ("true", "false"):
        found.add(step(pointer, SWITCH_ANNOTATION), 'Write "true" or "false".')
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > limits.MAX_ANNOTATIONS_BYTES:
        reason = f"Annotations are at most {limits.MAX_ANNOTATIONS_BYTES} bytes together."
        found.add(pointer, reason, Code.LIMIT)
