"""Endpoints, sets, tiers, pools and hosts: what `validate` checks of them, and their canonical form."""

from typing import TypeVar

from msgspec.structs import replace

from hopwall_model import cidr, protocols, resource_names
from hopwall_model import validate_fields as check
from hopwall_model.not_implemented import refuse_unimplemented
from hopwall_model.problems import Code, Findings, step
from hopwall_model.resources import (
    EndpointPort,
    HostEndpointPort,
    HostEndpointSpec,
    IpNat,
    IpPoolSpec,
    NetworkSetSpec,
    NodeAddress,
    NodeBgp,
    NodeSpec,
    TierSpec,
    WorkloadEndpointSpec,
)

#: IP family → shortest and longest blockSize. Source: Calico v3 API, IPPool.
BLOCK_SIZES = {4: (20, 32), 6: (116, 128)}

_Port = TypeVar("_Port", EndpointPort, HostEndpointPort)

#: Every interface that is no workload's and no other host endpoint's.
ANY_INTERFACE = "*"

_ENDPOINT_TEXTS = {
    "orchestrator": "orchestrator",
    "workload": "workload",
    "endpoint": "endpoint",
    "container_id": "containerID",
    "pod": "pod",
    "service_account_name": "serviceAccountName",
}


def workload_endpoint(
    found: Findings, pointer: str, spec: WorkloadEndpointSpec
) -> WorkloadEndpointSpec:
    """Return the endpoint in canonical form."""
    refuse_unimplemented(found, pointer, spec)
    check.name(found, step(pointer, "node"), spec.node)
    check.interface_name(found, step(pointer, "interfaceName"), spec.interface_name)
    for field, wire_name in _ENDPOINT_TEXTS.items():
        check.short_text(found, step(pointer, wire_name), getattr(spec, field))
    for index, profile in enumerate(spec.profiles):
        check.name(found, step(step(pointer, "profiles"), index), profile)
    networks = step(pointer, "ipNetworks")
    if len(spec.ip_networks) > resource_names.MAX_ENDPOINT_ADDRESSES:
        reason = f"An endpoint has at most {resource_names.MAX_ENDPOINT_ADDRESSES} addresses."
        found.add(networks, reason, Code.LIMIT)
    spoofs = step(pointer, "allowSpoofedSourcePrefixes")
    owned = check.workload_addresses(found, networks, spec.ip_networks)
    return replace(
        spec,
        ip_networks=owned,
        ip_nats=_ip_nats(found, step(pointer, "ipNATs"), spec.ip_nats, owned),
        ipv4_gateway=check.address(found, step(pointer, "ipv4Gateway"), spec.ipv4_gateway, 4),
        ipv6_gateway=check.address(found, step(pointer, "ipv6Gateway"), spec.ipv6_gateway, 6),
        mac=check.mac(found, step(pointer, "mac"), spec.mac),
        ports=_named_ports(found, step(pointer, "ports"), spec.ports),
        allow_spoofed_source_prefixes=check.cidrs(
            found, spoofs, spec.allow_spoofed_source_prefixes
        ),
    )


def _ip_nats(
    found: Findings, pointer: str, given: tuple[IpNat, ...], owned: tuple[str, ...]
) -> tuple[IpNat, ...]:
    """Return floating addresses in canonical text, each of an address that the endpoint has."""
    nats: list[IpNat] = []
    seen: set[str] = set()
    if len(given) > resource_names.MAX_ENDPOINT_ADDRESSES:
        reason = f"An endpoint has at most {resource_names.MAX_ENDPOINT_ADDRESSES} ipNATs."
        found.add(pointer, reason, Code.LIMIT)
    for index, nat in enumerate(given):
        place = step(pointer, index)
        internal = _required_address(found, step(place, "internalIP"), nat.internal_ip)
        external = _required_address(found, step(place, "externalIP"), nat.external_ip)
        nats.append(IpNat(internal_ip=internal, external_ip=external))
        if not internal or not external:
            continue
        if f"{internal}/{128 if ':' in internal else 32}" not in owned:
            reason = f"{internal} is not among the endpoint's ipNetworks; add it there first."
            found.add(step(place, "internalIP"), reason, Code.CONFLICT)
        if (":" in internal) != (":" in external):
            reason = f"{external} and {internal} are not of the same IP version."
            found.add(step(place, "externalIP"), reason, Code.CONFLICT)
        if external in seen or f"{external}/{128 if ':' in external else 32}" in owned:
            reason = f"{external} is given more than once; an address is translated to one other."
            found.add(step(place, "externalIP"), reason, Code.CONFLICT)
        seen.add(external)
    return tuple(nats)


def _required_address(found: Findings, pointer: str, text: str) -> str:
    """Return an address that a workload could have; "" when it is none, which is noted."""
    try:
        parsed = cidr.parse_ip(text)
    except ValueError as error:
        found.add(pointer, str(error))
        return ""
    if not cidr.is_workload_address(parsed):
        found.add(pointer, f"{parsed} is not an address that an endpoint can own.")
    return parsed


def _named_ports(found: Findings, pointer: str, ports: tuple[_Port, ...]) -> tuple[_Port, ...]:
    return tuple(_named_port(found, step(pointer, index), port) for index, port in enumerate(ports))


def _named_port(found: Findings, pointer: str, port: _Port) -> _Port:
    if not resource_names.valid_port_name(port.name):
        reason = (
            f"{port.name[:64]!r} is not a port's name: letters, digits, '_.-', at most 128, "
            "and not only digits."
        )
        found.add(step(pointer, "name"), reason)
    place = step(pointer, "protocol")
    protocol = check.protocol(found, place, port.protocol)
    if protocol is None:
        protocol = port.protocol
    try:
        with_ports = protocols.has_ports(protocols.number_of(protocol))
    except ValueError:
        with_ports = True  # noted already
    if not with_ports:
        found.add(place, f"Protocol {protocol} has no ports; use TCP, UDP, SCTP or UDPLite.")
    if isinstance(port, HostEndpointPort):
        return replace(port, protocol=protocol)
    host_ip = check.address(found, step(pointer, "hostIP"), port.host_ip)
    return replace(port, protocol=protocol, host_ip=host_ip)


def host_endpoint(found: Findings, pointer: str, spec: HostEndpointSpec) -> HostEndpointSpec:
    """Return the host endpoint in canonical form.

    Source: Calico v3 API, HostEndpoint: at least one of interfaceName and expectedIPs.
    """
    check.name(found, step(pointer, "node"), spec.node)
    if spec.interface_name and spec.interface_name != ANY_INTERFACE:
        check.interface_name(found, step(pointer, "interfaceName"), spec.interface_name)
    if not spec.interface_name and not spec.expected_ips:
        reason = 'Give interfaceName (a name, or "*" for all), or expectedIPs.'
        found.add(step(pointer, "interfaceName"), reason, Code.MISSING)
    expected = step(pointer, "expectedIPs")
    if len(spec.expected_ips) > resource_names.MAX_ENDPOINT_ADDRESSES:
        reason = f"There are at most {resource_names.MAX_ENDPOINT_ADDRESSES} expectedIPs."
        found.add(expected, reason, Code.LIMIT)
    for index, profile in enumerate(spec.profiles):
        check.name(found, step(step(pointer, "profiles"), index), profile)
    addresses = []
    for index, text in enumerate(spec.expected_ips):
        place = step(expected, index)
        if not text:
            found.add(place, "The address is empty; remove the entry.")
        addresses.append(check.address(found, place, text))
    return replace(
        spec,
        expected_ips=tuple(dict.fromkeys(addresses)),
        ports=_named_ports(found, step(pointer, "ports"), spec.ports),
    )


def network_set(found: Findings, pointer: str, spec: NetworkSetSpec) -> NetworkSetSpec:
    """Return the set in canonical form."""
    return replace(spec, nets=check.cidrs(found, step(pointer, "nets"), spec.nets))


def tier(found: Findings, pointer: str, name: str, spec: TierSpec) -> TierSpec:
    """Return the tier in canonical form; what Calico reserves cannot be changed."""
    reserved = resource_names.RESERVED_TIERS.get(name)
    if reserved is None:
        return spec
    order, action = reserved
    if spec.order is not None and spec.order != order:
        reason = f"Tier {name!r} always has order {order:.0f}; leave the field out."
        found.add(step(pointer, "order"), reason, Code.CONFLICT)
    if spec.default_action != action:
        reason = f"Tier {name!r} always has defaultAction {action}; set that."
        found.add(step(pointer, "defaultAction"), reason, Code.CONFLICT)
    return replace(spec, order=order)


def ip_pool(found: Findings, pointer: str, spec: IpPoolSpec) -> IpPoolSpec:
    """Return the pool in canonical form."""
    refuse_unimplemented(found, pointer, spec)
    check.selector(found, step(pointer, "nodeSelector"), spec.node_selector)
    check.selector(found, step(pointer, "namespaceSelector"), spec.namespace_selector)
    place = step(pointer, "cidr")
    try:
        range_ = cidr.parse_cidr(spec.cidr, strict_host_bits=True)
    except ValueError as error:
        found.add(place, str(error))
        return spec
    if not cidr.length_of(range_) or not cidr.is_workload_address(cidr.address_of(range_)):
        found.add(place, f"{range_} is not a range that endpoints can have addresses from.")
    first, last = BLOCK_SIZES[cidr.family_of(range_)]
    if spec.block_size is not None:
        block = step(pointer, "blockSize")
        if not first <= spec.block_size <= last:
            reason = f"The block size of this family is from {first} to {last}."
            found.add(block, reason)
        elif spec.block_size < cidr.length_of(range_):
            found.add(block, f"A block is larger than the pool {range_}.", Code.CONFLICT)
    return replace(spec, cidr=range_)


def node(found: Findings, pointer: str, spec: NodeSpec) -> NodeSpec:
    """Return the host in canonical form."""
    refuse_unimplemented(found, pointer, spec)
    addresses = step(pointer, "addresses")
    return replace(
        spec,
        bgp=None if spec.bgp is None else _node_bgp(found, step(pointer, "bgp"), spec.bgp),
        addresses=tuple(
            _node_address(found, step(addresses, index), address)
            for index, address in enumerate(spec.addresses)
        ),
    )


def _node_bgp(found: Findings, pointer: str, bgp: NodeBgp) -> NodeBgp:
    refuse_unimplemented(found, pointer, bgp)
    cluster_id = step(pointer, "routeReflectorClusterID")
    return replace(
        bgp,
        as_number=check.as_number(found, step(pointer, "asNumber"), bgp.as_number),
        ipv4_address=check.if_address(found, step(pointer, "ipv4Address"), bgp.ipv4_address, 4),
        ipv6_address=check.if_address(found, step(pointer, "ipv6Address"), bgp.ipv6_address, 6),
        route_reflector_cluster_id=_cluster_id(found, cluster_id, bgp.route_reflector_cluster_id),
    )


def _cluster_id(found: Findings, pointer: str, text: str) -> str:
    """Return a cluster id as four numbers; any 32 bits will do (RFC 4456)."""
    if not text:
        return text
    if ":" in text:
        found.add(pointer, f"{text[:64]!r} is not a cluster id; write it like 224.0.0.1.")
        return text
    return found.parsed(pointer, cidr.parse_ip, text)


def _node_address(found: Findings, pointer: str, given: NodeAddress) -> NodeAddress:
    """Return the bare address: a prefix length is understood, as Calico does, and dropped."""
    place = step(pointer, "address")
    if not given.address:
        found.add(place, "The address is empty; remove the entry.")
        return given
    try:
        bare = cidr.address_of(cidr.parse_if_address(given.address))
    except ValueError as error:
        found.add(place, str(error))
        return given
    return replace(given, address=check.address(found, place, bare))
