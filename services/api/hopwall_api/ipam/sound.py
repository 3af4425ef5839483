"""Whether a stored resource is what `validate` lets in, as far as address management reads it; and whose range it is.

Pure. Only the API writes events, and admits them first; what came past it all the same (another version, a bug, a
credential in wrong hands) must harm nothing but itself. But what it had given stays given: so the range of a block or pool that cannot be read
is as good as taken.
"""

from msgspec.structs import replace

from hopwall_api.ipam.spans import number_of, span_of, text_of
from hopwall_model import cidr, validate_ipam, validate_kinds
from hopwall_model.ipam_specs import block_name
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
    span, seen = span_of(block.spec.cidr), set[int]()
    for field in ("allocations", "released"):
        for address in (one.address for one in getattr(block.spec, field)):
            number = _number(address)
            if not span.first <= number <= span.last:
                return (
                    f"/spec/{field}: {address!r} is not an address of the block in canonical form"
                )
            if number in seen:
                return f"/spec/{field}: {address} stands twice"
            seen.add(number)
    return ""


def _number(address: str) -> int:
    """Return the number of an address; -1 of what is none in canonical form."""
    try:
        number = number_of(address)
    except (OSError, ValueError):
        return -1
    # Of IPv4 there is one spelling alone that the system reads.
    return number if ":" not in address or text_of(6, number) == address else -1


def _endpoint_fault(resource: WorkloadEndpoint) -> str:
    """Return why its addresses are no numbers."""
    for net in resource.spec.ip_networks:
        try:
            number_of(cidr.address_of(cidr.Cidr(net)))
        except (OSError, ValueError):
            return f"/spec/ipNetworks: {net!r} is not an address in canonical form"
    return ""


# ---------------------------------------------------------------- ranges


def range_of(resource: Resource) -> str:
    """Return the range that a block or pool which cannot be read keeps; "" when it has none.

    Shape:  of a block that of its name, which tells one from another and is what a claim would write over; its cidr
            where the name is none. A range larger than any may be is none: else one bad event would end all assigning.
    """
    if isinstance(resource, IPAMBlock):
        named = _block_range(_unnamed(resource.metadata.name))
        if named and block_name(cidr.Cidr(named)) == resource.metadata.name:
            return named
        return _block_range(resource.spec.cidr)
    if isinstance(resource, IPPool):
        range_ = _network(resource.spec.cidr)
        return range_ if range_ and cidr.length_of(cidr.Cidr(range_)) else ""
    return ""


def _unnamed(name: str) -> str:
    """Return the range that a block's name was made of; what no range has made is no range then."""
    address, _, length = name.rpartition("-")
    v4 = len(address.split("-")) == 4 and "--" not in address
    text = address.replace("-", "." if v4 else ":")
    return f"{text.removeprefix('0') if text.startswith('0::') else text}/{length}"


def _block_range(text: str) -> str:
    range_ = _network(text)
    if not range_:
        return ""
    first, last = validate_kinds.BLOCK_SIZES[cidr.family_of(cidr.Cidr(range_))]
    return range_ if first <= cidr.length_of(cidr.Cidr(range_)) <= last else ""


def _network(text: str) -> str:
    """Return a network in canonical form, host bits dropped; "" when it is none."""
    try:
        return cidr.parse_cidr(text)
    except ValueError:
        return ""
