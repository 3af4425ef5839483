"""Blocks, reservations and the IPAM configuration: what `validate` checks of them."""

from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from hopwall_model import cidr, resource_names
from hopwall_model import validate_fields as check
from hopwall_model.cidr import Cidr
from hopwall_model.ipam_specs import (
    CONFIGURATION_NAME,
    IpamAllocation,
    IpamBlockSpec,
    IpamConfigurationSpec,
    IpReservationSpec,
    affinity_of,
    block_name,
)
from hopwall_model.not_implemented import refuse_unimplemented
from hopwall_model.problems import Code, Findings, step
from hopwall_model.validate_kinds import BLOCK_SIZES


def reservation(found: Findings, pointer: str, spec: IpReservationSpec) -> IpReservationSpec:
    """Return the reservation in canonical form."""
    place = step(pointer, "reservedCIDRs")
    return replace(spec, reserved_cidrs=check.cidrs(found, place, spec.reserved_cidrs))


def configuration(
    found: Findings, pointer: str, name: str, spec: IpamConfigurationSpec
) -> IpamConfigurationSpec:
    """Return the configuration; its name is fixed, for there is one."""
    refuse_unimplemented(found, pointer, spec)
    if name != CONFIGURATION_NAME:
        reason = f"There is one IPAMConfiguration, named {CONFIGURATION_NAME}; use that name."
        found.add("/metadata/name", reason, Code.CONFLICT)
    return spec


def block(found: Findings, pointer: str, name: str, spec: IpamBlockSpec) -> IpamBlockSpec:
    """Check a block. It is written by the services, so what is not canonical is refused, not mended."""
    place = step(pointer, "cidr")
    try:
        range_ = cidr.parse_cidr(spec.cidr, strict_host_bits=True)
    except ValueError as error:
        found.add(place, str(error))
        return spec
    first, last = BLOCK_SIZES[cidr.family_of(range_)]
    if not first <= cidr.length_of(range_) <= last:
        found.add(place, f"A block of this family has a prefix length from {first} to {last}.")
        return spec
    if name != block_name(range_):
        reason = f"The block {range_} has the name {block_name(range_)}; set that."
        found.add("/metadata/name", reason, Code.CONFLICT)
    if spec.affinity:
        check.name(found, step(pointer, "affinity"), spec.host)
        if spec.affinity != affinity_of(spec.host):
            found.add(step(pointer, "affinity"), "Write the affinity as host:<node>.")
    _in_order(found, pointer, range_, spec)
    for index, allocation in enumerate(spec.allocations):
        _allocation(found, step(step(pointer, "allocations"), index), allocation)
    return replace(spec, cidr=range_)


def _in_order(found: Findings, pointer: str, range_: Cidr, spec: IpamBlockSpec) -> None:
    """Check that each address is of the block, stands once, and in order."""
    seen: set[int] = set()
    network = ip_network(range_)
    fields = {
        "allocations": [part.address for part in spec.allocations],
        "released": [part.address for part in spec.released],
    }
    for field, addresses in fields.items():
        before = -1
        for index, text in enumerate(addresses):
            place = step(step(step(pointer, field), index), "address")
            address = found.parsed(place, cidr.parse_ip, text)
            if address != text:
                found.add(place, f"Write the address as {address}.")
            try:
                number = int(ip_address(address))
            except ValueError:
                continue  # noted already
            if ip_address(address) not in network:
                found.add(place, f"{address} is not in the block {range_}.")
            elif number in seen or number < before:
                found.add(place, f"{address} stands twice, or not in order.", Code.CONFLICT)
            seen.add(number)
            before = number


def _allocation(found: Findings, pointer: str, allocation: IpamAllocation) -> None:
    handle(found, step(pointer, "handle"), allocation.handle)
    check.name(found, step(pointer, "node"), allocation.node)
    attributes(found, step(pointer, "attributes"), allocation.attributes)


def handle(found: Findings, pointer: str, text: str) -> None:
    """Check the handle of an owner of addresses."""
    if not resource_names.valid_handle(text):
        reason = f"{text[:64]!r} is not a handle: letters, digits, '._:@-', at most 253."
        found.add(pointer, reason)


def attributes(found: Findings, pointer: str, given: dict[str, str]) -> None:
    """Check what a caller notes beside an address."""
    if len(given) > resource_names.MAX_ATTRIBUTES:
        reason = f"There are more than {resource_names.MAX_ATTRIBUTES} attributes."
        found.add(pointer, reason, Code.LIMIT)
    for key, value in given.items():
        place = step(pointer, key)
        if not resource_names.valid_label_key(key):
            found.add(place, f"{key[:64]!r} is not an attribute's key.")
        if len(value) > resource_names.MAX_ATTRIBUTE or not value.isprintable():
            most = resource_names.MAX_ATTRIBUTE
            found.add(place, f"The value is not printable text of at most {most} characters.")
