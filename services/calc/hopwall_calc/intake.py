"""What calc keeps of each resource, checked: the one place where an event's text can be found wrong.

Behind it everything is plain canonical values, so a node cannot fail on what a resource says. The checks
are the API's own (`hopwall_model.validate_*`): an event that came past the API is no exception.
"""

import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from hopwall_model import cidr, selectors, validate_kinds, validate_rules
from hopwall_model.migration_specs import GENERATION_ANNOTATION, valid_generation
from hopwall_model.names import valid_ifname
from hopwall_model.problems import Findings
from hopwall_model.protocols import NAME_BY_NUMBER, WITH_PORTS, number_of
from hopwall_model.resource_names import (
    MAX_ENDPOINT_ADDRESSES,
    MAX_TEXT,
    RESERVED_TIERS,
    valid_name,
    valid_port_name,
)
from hopwall_model.resources import (
    EndpointPort,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    GlobalNetworkSet,
    HostEndpoint,
    HostEndpointPort,
    IPPool,
    Key,
    NetworkPolicy,
    NetworkPolicySpec,
    NetworkSet,
    Node,
    NodeBgp,
    Profile,
    Rules,
    Tier,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    key_of,
)
from hopwall_model.selectors import NAMESPACE_LABEL, All, Has, In, Selector
from hopwall_model.updates import EndpointId, HostEndpointId, Nat, PolicyId

S = TypeVar("S")

#: What namespaces' labels bear in the labels of what lives in them. Source: Calico, conversion
#: constants NamespaceLabelPrefix and NamespaceProfileNamePrefix.
NAMESPACE_LABEL_PREFIX = "pcns."
NAMESPACE_PROFILE_PREFIX = "kns."

#: Says of a host endpoint that it is meant even where it would cut its host off.
FORCE_ANNOTATION = "hopwall.io/force"

#: A named port of an endpoint: protocol number, name, port number.
EndpointPortInput = tuple[int, str, int]


class EndpointInput(Struct, frozen=True, kw_only=True, gc=False):
    """What matters of a workload endpoint."""

    id: EndpointId
    host: str
    interface: str
    mac: str
    addresses: tuple[str, ...]
    extra_sources: tuple[str, ...]
    profiles: tuple[str, ...]
    namespace: str
    orchestrator: str
    labels: tuple[tuple[str, str], ...]
    created: str
    nats: tuple[Nat, ...] = ()
    ports: tuple[EndpointPortInput, ...] = ()
    #: What it is an interface of, and which; "" if it does not say.
    workload: str = ""
    endpoint: str = ""
    #: The highest of one workload's is where the workload is.
    generation: int = 0


class HostEndpointInput(Struct, frozen=True, kw_only=True, gc=False):
    """What matters of a host endpoint. `addresses` are the expected ones, as /32 and /128."""

    id: HostEndpointId
    host: str
    interface: str
    addresses: tuple[str, ...]
    profiles: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    ports: tuple[EndpointPortInput, ...]
    force: bool
    #: It is in none.
    namespace: str = ""


class NetworkSetInput(Struct, frozen=True, kw_only=True, gc=False):
    """What matters of a network set. `nets` holds no /0: it is cut in two."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    nets: tuple[str, ...]


class PolicyInput(Struct, frozen=True, kw_only=True, gc=False):
    """What matters of a policy. `selector` already says which namespaces are meant."""

    id: PolicyId
    namespace: str
    tier: str
    rank: tuple[float, str, str, str]
    selector: Selector
    for_ingress: bool
    for_egress: bool
    ingress: Rules
    egress: Rules
    #: It has rules in the direction, and they do nothing but log.
    logs_ingress: bool = False
    logs_egress: bool = False
    do_not_track: bool = False
    pre_dnat: bool = False
    on_forward: bool = False
    #: Its rules are not understood: it denies instead.
    closed: bool = False


class ProfileInput(Struct, frozen=True, kw_only=True, gc=False):
    """What matters of a profile."""

    id: PolicyId
    labels: tuple[tuple[str, str], ...]
    ingress: Rules
    egress: Rules


class TierInput(Struct, frozen=True, gc=False):
    """A tier's place and end."""

    order: float
    passes: bool


class PoolInput(Struct, frozen=True, gc=False):
    """A pool's range; whether what leaves all pools from it is translated; whether BGP announces it."""

    cidr: str
    nat_outgoing: bool
    exported: bool = True


class HostInput(Struct, frozen=True, gc=False):
    """The addresses at which other hosts reach this one; "" if unknown."""

    gateway_v4: str = ""
    gateway_v6: str = ""


class NodeInput(Struct, frozen=True, kw_only=True):
    """What matters of a declared host. Without `speaks` it takes no part in BGP."""

    reached_at: HostInput
    labels: dict[str, str]
    speaks: bool = False
    #: Its BGP addresses, without length; "" if it has none of the family.
    ipv4: str = ""
    ipv6: str = ""
    #: The networks these are in: who is in one of them is on a link of the host.
    links: tuple[cidr.Cidr, ...] = ()
    as_number: int | None = None
    cluster_id: str = ""


def checked(check: Callable[[Findings, str, S], S], spec: S) -> S:
    """Return the canonical value of a resource's spec.

    Errors: `Invalid` with all that is wrong with it.
    """
    found = Findings()
    canonical = check(found, "/spec", spec)
    found.stop()
    return canonical


def _labels(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    # Interned: the same few words stand in every endpoint of a cloud.
    return tuple((sys.intern(key), sys.intern(value)) for key, value in labels.items())


def endpoint(resource: WorkloadEndpoint) -> EndpointInput:
    """Return what matters of a workload endpoint."""
    meta, spec = resource.metadata, resource.spec
    if not _plainly_valid(spec):
        spec = checked(validate_kinds.workload_endpoint, spec)
    namespace = sys.intern(meta.namespace or "")
    return EndpointInput(
        id=EndpointId(f"{namespace}/{meta.name}"),
        host=sys.intern(spec.node),
        interface=spec.interface_name,
        mac=spec.mac,
        addresses=spec.ip_networks,
        extra_sources=spec.allow_spoofed_source_prefixes,
        profiles=tuple(sys.intern(name) for name in spec.profiles),
        namespace=namespace,
        orchestrator=sys.intern(spec.orchestrator),
        labels=_labels(meta.labels),
        created=meta.creation_timestamp or "",
        nats=tuple(Nat(_alone(nat.external_ip), _alone(nat.internal_ip)) for nat in spec.ip_nats),
        ports=_ports(spec.ports),
        # Source: Calico, a pod's workload id is its namespace and name.
        workload=spec.workload or (f"{namespace}/{spec.pod}" if spec.pod else ""),
        endpoint=sys.intern(spec.endpoint),
        generation=_generation(meta.annotations),
    )


def _generation(annotations: dict[str, str]) -> int:
    text = annotations.get(GENERATION_ANNOTATION, "") if annotations else ""
    return int(text) if valid_generation(text) else 0


def host_endpoint(resource: HostEndpoint) -> HostEndpointInput:
    """Return what matters of a host endpoint."""
    meta = resource.metadata
    spec = checked(validate_kinds.host_endpoint, resource.spec)
    return HostEndpointInput(
        id=HostEndpointId(meta.name),
        host=sys.intern(spec.node),
        interface=spec.interface_name,
        addresses=tuple(_alone(address) for address in spec.expected_ips),
        profiles=tuple(sys.intern(name) for name in spec.profiles),
        labels=_labels(meta.labels),
        ports=_ports(spec.ports),
        force=meta.annotations.get(FORCE_ANNOTATION) == "true",
    )


def _alone(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _ports(ports: tuple[EndpointPort | HostEndpointPort, ...]) -> tuple[EndpointPortInput, ...]:
    if not ports:
        return ()
    named = ((number_of(port.protocol), sys.intern(port.name), port.port) for port in ports)
    return tuple(dict.fromkeys(named))


#: An address that an interface may own, in canonical text. Stricter than need be: see below.
_PLAIN_V4 = re.compile(
    r"(?:[1-9]|[1-9]\d|1[013-9]\d|12[0-6]|128|129|2[01]\d|22[0-3])"
    r"(?:\.(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}/32",
    re.ASCII,
)
_PLAIN_MAC = re.compile(r"[0-9a-f][02468ace](?::[0-9a-f]{2}){5}", re.ASCII)
_NO_MAC = "00:00:00:00:00:00"


def _plainly_valid(spec: WorkloadEndpointSpec) -> bool:
    """Tell whether the endpoint is certainly valid and canonical, at a tenth of what `validate` costs.

    Whatever is not plain is left to `validate` to judge. Texts that calc does not keep are not looked at.
    """
    return (
        all(_PLAIN_V4.fullmatch(address) for address in spec.ip_networks)
        and len(set(spec.ip_networks)) == len(spec.ip_networks) <= MAX_ENDPOINT_ADDRESSES
        and valid_ifname(spec.interface_name)
        and valid_name(spec.node)
        and all(valid_name(name) for name in spec.profiles)
        and (not spec.mac or bool(_PLAIN_MAC.fullmatch(spec.mac) and spec.mac != _NO_MAC))
        and len(spec.orchestrator) <= MAX_TEXT
        and all(_plain_port(port) for port in spec.ports)
        and not (spec.allow_spoofed_source_prefixes or spec.ip_nats)
        and not (spec.ipv4_gateway or spec.ipv6_gateway or spec.qos_controls is not None)
    )


def _plain_port(port: EndpointPort) -> bool:
    return valid_port_name(port.name) and port.protocol in _PLAIN_PROTOCOLS and not port.host_ip


_PLAIN_PROTOCOLS = frozenset(NAME_BY_NUMBER[number] for number in WITH_PORTS)


def network_set(resource: NetworkSet | GlobalNetworkSet) -> NetworkSetInput:
    """Return what matters of a network set."""
    spec = checked(validate_kinds.network_set, resource.spec)
    halves = (half for net in spec.nets for half in cidr.split_zero(cidr.Cidr(net)))
    return NetworkSetInput(
        namespace=resource.metadata.namespace or "",
        labels=_labels(resource.metadata.labels),
        nets=tuple(dict.fromkeys(halves)),
    )


def policy(resource: NetworkPolicy | GlobalNetworkPolicy) -> PolicyInput:
    """Return what matters of a policy; one whose rules are not understood denies.

    Errors: `Invalid` when not even its selection is understood.
    """
    try:
        spec, closed = checked(validate_rules.policy, resource.spec), False
    except ValueError:
        bare = replace(resource.spec, types=_types(resource), ingress=(), egress=())
        spec, closed = checked(validate_rules.policy, bare), True
    key = key_of(resource)
    selector = selectors.parse(spec.selector)
    if isinstance(resource, NetworkPolicy):
        policy_id = PolicyId(f"np/{key.namespace}/{key.name}")
        selector = selectors.and_(in_namespace(key.namespace), selector)
    else:
        policy_id = PolicyId(f"gnp/{key.name}")
        wanted = resource.spec.namespace_selector
        if wanted:
            selector = selectors.and_(of_namespaces(wanted), selector)
    return PolicyInput(
        id=policy_id,
        namespace=key.namespace,
        tier=sys.intern(spec.tier),
        rank=(_order(spec.order), key.name, key.namespace, key.kind),
        selector=selector,
        for_ingress="Ingress" in spec.types,
        for_egress="Egress" in spec.types,
        ingress=spec.ingress,
        egress=spec.egress,
        logs_ingress=_only_logs(spec.ingress),
        logs_egress=_only_logs(spec.egress),
        closed=closed,
        **_flags(spec),
    )


def _types(resource: NetworkPolicy | GlobalNetworkPolicy) -> tuple[Any, ...]:
    """Return the directions to close: those it was for, all it could be for if it did not say."""
    if resource.spec.types:
        return resource.spec.types
    return ("Ingress",) if _flags(resource.spec).get("pre_dnat") else ("Ingress", "Egress")


def _flags(spec: NetworkPolicySpec) -> dict[str, bool]:
    if not isinstance(spec, GlobalNetworkPolicySpec):
        return {}
    return {
        "do_not_track": spec.do_not_track,
        "pre_dnat": spec.pre_dnat,
        "on_forward": spec.apply_on_forward,
    }


def _only_logs(rules: Rules) -> bool:
    return bool(rules) and all(rule.action == "Log" for rule in rules)


def profile(resource: Profile) -> ProfileInput:
    """Return what matters of a profile."""
    spec = checked(validate_rules.profile, resource.spec)
    return ProfileInput(
        id=profile_id(resource.metadata.name),
        labels=_labels(spec.labels_to_apply),
        ingress=spec.ingress,
        egress=spec.egress,
    )


def profile_id(name: str) -> PolicyId:
    """Return the policy id of a profile's name."""
    return PolicyId(f"profile/{name}")


def tier(resource: Tier) -> TierInput:
    """Return what matters of a tier."""
    return TierInput(_order(resource.spec.order), resource.spec.default_action == "Pass")


#: The tiers that are there without being declared.
IMPLIED_TIERS = {
    name: TierInput(order, action == "Pass") for name, (order, action) in RESERVED_TIERS.items()
}


def _order(order: float | None) -> float:
    return float("inf") if order is None else order


def pool(resource: IPPool) -> PoolInput:
    """Return what matters of a pool; a disabled one too: its addresses are given out no more, but live."""
    spec = checked(validate_kinds.ip_pool, resource.spec)
    return PoolInput(spec.cidr, spec.nat_outgoing, not spec.disable_bgp_export)


def host(resource: Node) -> NodeInput:
    """Return what matters of a host.

    It is reached at its BGP address, else its node address, else an internal one.
    """
    spec = checked(validate_kinds.node, resource.spec)
    bgp = spec.bgp or NodeBgp()
    given = [bgp.ipv4_address, bgp.ipv6_address]
    for wanted in ("CalicoNodeIP", "InternalIP"):
        given += [entry.address for entry in spec.addresses if entry.type == wanted]
    bare = [text.partition("/")[0] for text in given if text]
    assert not isinstance(bgp.as_number, str)  # admission made a number of it
    return NodeInput(
        reached_at=HostInput(
            next((address for address in bare if ":" not in address), ""),
            next((address for address in bare if ":" in address), ""),
        ),
        labels=resource.metadata.labels,
        speaks=spec.bgp is not None,
        ipv4=bgp.ipv4_address.partition("/")[0],
        ipv6=bgp.ipv6_address.partition("/")[0],
        links=tuple(cidr.parse_cidr(text) for text in (bgp.ipv4_address, bgp.ipv6_address) if text),
        as_number=bgp.as_number,
        cluster_id=bgp.route_reflector_cluster_id,
    )


def in_namespace(namespace: str) -> Selector:
    """Return the selector of what lives in one namespace."""
    return In(NAMESPACE_LABEL, frozenset((namespace,)))


def of_namespaces(text: str) -> Selector:
    """Return a namespace selector as a selector of what lives in those namespaces.

    `all()` means any namespace; `global()` means none.

    Source: Calico, updateprocessors/rules.go (parseSelectorAttachPrefix and what follows it).
    """
    prefixed = selectors.prefix_labels(selectors.parse(text), NAMESPACE_LABEL_PREFIX)
    return selectors.map_conditions(
        prefixed, lambda leaf: Has(NAMESPACE_LABEL) if isinstance(leaf, All) else leaf
    )


def by_name(key: Key) -> str:
    """Return the key of a kind that is referred to by its name alone."""
    return key.name


def by_key(key: Key) -> Key:
    """Return the key as it is."""
    return key
