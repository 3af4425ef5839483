"""Whether a stored resource is what `validate` lets in, as far as address management reads it.

Pure. Only the API writes events, and admits them first; what came past it all the same (another version, a bug, a
credential in wrong hands) must harm nothing but itself.
"""

from msgspec.structs import replace

from hopwall_api.ipam.spans import number_of, span_of
from hopwall_model import cidr, validate_ipam, validate_kinds
from hopwall_model.problems import Findings
from hopwall_model.resources import (
    IPAMBlock,
    IPAMConfiguration,
    IPPool,
    IPReservation,
    Node,
    Resource,
    WorkloadEndpoint,
)


def fault_of(resource: Resource) -> str:
    """Return what is wrong with a resource, "" when it can be read.

    Cost: of a block and of an endpoint, half a microsecond for each address: they change often, and `validate` would
          take milliseconds for a full block.
    """
    found, name = Findings(), resource.metadata.name
    match resource:
        case IPPool():
            canonical: object = validate_kinds.ip_pool(found, "/spec", resource.spec)
        case IPReservation():
            canonical = validate_ipam.reservation(found, "/spec", resource.spec)
        case IPAMConfiguration():
            canonical = validate_ipam.configuration(found, "/spec", name, resource.spec)
        case IPAMBlock():
            bare = replace(resource.spec, allocations=(), released=())
            if validate_ipam.block(found, "/spec", name, bare) == bare and not found.problems:
                return _allocations_fault(resource)
            canonical = None
        case Node():
            canonical = validate_kinds.node(found, "/spec", resource.spec)
        case WorkloadEndpoint():
            return _endpoint_fault(resource)
        case _:
            return ""
    if found.problems:
        return "; ".join(f"{one.pointer}: {one.reason}" for one in found.problems)
    return "" if canonical == resource.spec else "/spec: it is not in canonical form"


def _allocations_fault(block: IPAMBlock) -> str:
    """Return why its addresses are not those of a block."""
    span = span_of(block.spec.cidr)
    addresses = [one.address for one in block.spec.allocations]
    for address in (*addresses, *(one.address for one in block.spec.released)):
        try:
            inside = span.holds(span_of(address))
        except (OSError, ValueError):
            inside = False
        if not inside:
            return f"/spec/allocations: {address!r} is not an address of the block"
    return ""


def _endpoint_fault(resource: WorkloadEndpoint) -> str:
    """Return why its addresses are no numbers."""
    for net in resource.spec.ip_networks:
        try:
            number_of(cidr.address_of(cidr.Cidr(net)))
        except OSError:
            return f"/spec/ipNetworks: {net!r} is not an address in canonical form"
    return ""
