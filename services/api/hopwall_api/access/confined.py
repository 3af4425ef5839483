"""What an editor's resources may not say, though their kind and namespace are his to write. Pure.

A namespace ends where others begin: addresses that no pool gives out, sources that are not the endpoint's, and
tiers in which the admin's policies stand are not the namespace's to take.
"""

from collections.abc import Callable

from hopwall_api.access.roles import Caller, Role
from hopwall_model.resource_names import DEFAULT_TIER
from hopwall_model.resources import NetworkPolicy, Resource, WorkloadEndpoint

#: Whether a pool gives out this address or network.
InPool = Callable[[str], bool]


def beyond(caller: Caller, before: Resource | None, after: Resource | None, in_pool: InPool) -> str:
    """Return what of this change the caller may not do, as a sentence; "" when it may.

    Shape:  before and after None: it did not exist, it is removed.
    """
    if caller.role is not Role.EDITOR:
        return ""
    for resource in (before, after):
        if isinstance(resource, NetworkPolicy) and resource.spec.tier != DEFAULT_TIER:
            return (
                f"{caller} may not touch a policy in tier {resource.spec.tier}: outside tier"
                f" {DEFAULT_TIER} it takes the role admin."
            )
    if isinstance(after, WorkloadEndpoint):
        held = before if isinstance(before, WorkloadEndpoint) else None
        return _beyond_endpoint(caller, held, after, in_pool)
    return ""


def _beyond_endpoint(
    caller: Caller, before: WorkloadEndpoint | None, after: WorkloadEndpoint, in_pool: InPool
) -> str:
    held = _addresses(before) if before is not None else frozenset()
    for address in sorted(_addresses(after) - held):
        if not in_pool(address):
            return (
                f"{caller} may not give an endpoint the address {address}: it is in no IPPool, which takes"
                " the role admin."
            )
    sources = before.spec.allow_spoofed_source_prefixes if before is not None else ()
    if not set(after.spec.allow_spoofed_source_prefixes) <= set(sources):
        return (
            f"{caller} may not set allowSpoofedSourcePrefixes: other sources than an endpoint's own take"
            " the role admin."
        )
    return ""


def _addresses(endpoint: WorkloadEndpoint) -> frozenset[str]:
    spec = endpoint.spec
    return frozenset(spec.ip_networks) | {nat.external_ip for nat in spec.ip_nats}
