"""What a user declares: the Calico v3 resources, field for field.

These structs are the *shape* only: names, types, defaults. What a shape cannot say (a CIDR is
canonical, a selector parses, ports need a protocol that has them) is in `validate`, which is the one
way in: `validate.admit` turns bytes into a canonical resource or a list of problems.

After admission every address is canonical text (`cidr`), so equal text is equal meaning.

Source: Calico v3 API reference, resource definitions.
"""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from hopwall_model.bgp_specs import BgpConfigurationSpec, BgpFilterSpec, BgpPeerSpec
from hopwall_model.ipam_specs import IpamBlockSpec, IpamConfigurationSpec, IpReservationSpec
from hopwall_model.migration_specs import LiveMigrationSpec
from hopwall_model.refused_specs import HttpMatch, RuleMetadata, ServiceAccounts, ServiceMatch
from hopwall_model.shapes import Shape

API_VERSION = "projectcalico.org/v3"

#: Interface names fit the kernel's IFNAMSIZ less its NUL (linux/if.h).
InterfaceName = Annotated[str, Meta(min_length=1, max_length=15)]
PortNumber = Annotated[int, Meta(ge=0, le=65535)]
Action = Literal["Allow", "Deny", "Log", "Pass"]
Direction = Literal["Ingress", "Egress"]
IpVersion = Literal[4, 6]


class Metadata(Shape, frozen=True):
    """Name, labels and bookkeeping, shared by all kinds.

    `resourceVersion` is the revision of the event that holds this value (a decimal string), `uid`
    stays the same for the life of a resource, `generation` counts its writes from 1.
    """

    name: str
    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    resource_version: str | None = None
    uid: str | None = None
    generation: int | None = None
    creation_timestamp: str | None = None
    owner_references: tuple[dict[str, Any], ...] = ()
    finalizers: tuple[str, ...] = ()


# ---------------------------------------------------------------- rules


class Icmp(Shape, frozen=True):
    """An ICMP or ICMPv6 type, and optionally a code of it."""

    type: Annotated[int, Meta(ge=0, le=254)] | None = None
    code: Annotated[int, Meta(ge=0, le=255)] | None = None


class EntityRule(Shape, frozen=True):
    """One side (source or destination) of a rule's match; all given fields must hold."""

    nets: Annotated[tuple[str, ...], Meta(max_length=256)] = ()
    not_nets: Annotated[tuple[str, ...], Meta(max_length=256)] = ()
    selector: str = ""
    not_selector: str = ""
    namespace_selector: str = ""
    #: A number, "first:last", or the name of a port of the endpoint.
    ports: Annotated[tuple[int | str, ...], Meta(max_length=50)] = ()
    not_ports: Annotated[tuple[int | str, ...], Meta(max_length=50)] = ()
    services: ServiceMatch | None = None
    service_accounts: ServiceAccounts | None = None


class Rule(Shape, frozen=True):
    """One rule of a policy or profile: an action and the match that leads to it."""

    action: Action
    ip_version: IpVersion | None = None
    #: A name (TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite) or a number from 0 to 255.
    protocol: int | str | None = None
    not_protocol: int | str | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = field(default=None, name="notICMP")
    source: EntityRule = field(default_factory=EntityRule)
    destination: EntityRule = field(default_factory=EntityRule)
    http: HttpMatch | None = None
    metadata: RuleMetadata | None = None


Rules = Annotated[tuple[Rule, ...], Meta(max_length=1024)]


# ---------------------------------------------------------------- endpoints


class EndpointPort(Shape, frozen=True):
    """A named port of an endpoint."""

    name: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    protocol: int | str = "TCP"
    host_port: PortNumber = 0
    host_ip: str = field(default="", name="hostIP")


class IpNat(Shape, frozen=True):
    """A floating address: `externalIP` is translated to `internalIP`."""

    internal_ip: str = field(name="internalIP")
    external_ip: str = field(name="externalIP")


class WorkloadEndpointSpec(Shape, frozen=True):
    """One interface of one workload on one host."""

    node: str
    interface_name: InterfaceName
    orchestrator: str = ""
    workload: str = ""
    endpoint: str = ""
    container_id: str = field(default="", name="containerID")
    pod: str = ""
    service_account_name: str = ""
    ip_networks: tuple[str, ...] = ()
    ip_nats: tuple[IpNat, ...] = field(default=(), name="ipNATs")
    ipv4_gateway: str = field(default="", name="ipv4Gateway")
    ipv6_gateway: str = field(default="", name="ipv6Gateway")
    profiles: tuple[str, ...] = ()
    mac: str = ""
    ports: tuple[EndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    qos_controls: dict[str, Any] | None = None


class HostEndpointPort(Shape, frozen=True):
    """A named port of a host."""

    name: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    protocol: int | str = "TCP"


class HostEndpointSpec(Shape, frozen=True):
    """Interfaces of one host: policy for what the host itself sends, receives and forwards."""

    node: str
    #: A name, "*" for every interface that is no workload's, or "" for those with an expected address.
    interface_name: Annotated[str, Meta(max_length=15)] = ""
    expected_ips: tuple[str, ...] = field(default=(), name="expectedIPs")
    profiles: tuple[str, ...] = ()
    ports: tuple[HostEndpointPort, ...] = ()


# ---------------------------------------------------------------- policies


class NetworkPolicySpec(Shape, frozen=True):
    """Ordered rules for the endpoints of one namespace that a selector names."""

    tier: str = "default"
    #: Lower first; absent sorts last.
    order: float | None = None
    selector: str = ""
    types: tuple[Direction, ...] = ()
    ingress: Rules = ()
    egress: Rules = ()
    service_account_selector: str = ""
    performance_hints: tuple[Literal["AssumeNeededOnEveryNode"], ...] = ()


class GlobalNetworkPolicySpec(NetworkPolicySpec, frozen=True):
    """Ordered rules for the endpoints of all namespaces that a selector names."""

    namespace_selector: str = ""
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    apply_on_forward: bool = False


class ProfileSpec(Shape, frozen=True):
    """Fall-back rules, and labels that its endpoints inherit."""

    ingress: Rules = ()
    egress: Rules = ()
    labels_to_apply: dict[str, str] = field(default_factory=dict)


class TierSpec(Shape, frozen=True):
    """A named group of policies, at a place in the order of groups."""

    order: float | None = None
    default_action: Literal["Deny", "Pass"] = "Deny"


class NetworkSetSpec(Shape, frozen=True):
    """Addresses from outside the cloud, selected by the labels of the set."""

    nets: tuple[str, ...] = ()


# ---------------------------------------------------------------- addresses and hosts


class IpPoolSpec(Shape, frozen=True):
    """A range that workload addresses come from."""

    cidr: str
    block_size: Annotated[int, Meta(ge=0, le=128)] | None = None
    ipip_mode: Literal["Never", "Always", "CrossSubnet"] = "Never"
    vxlan_mode: Literal["Never", "Always", "CrossSubnet"] = "Never"
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = field(default=False, name="disableBGPExport")
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: tuple[Literal["Workload", "Tunnel", "LoadBalancer"], ...] = ()
    assignment_mode: Literal["Automatic", "Manual"] = "Automatic"


class NodeBgp(Shape, frozen=True):
    """The BGP part of a host: its number and the addresses it is reached at (with prefix length)."""

    as_number: int | str | None = None
    ipv4_address: str = ""
    ipv6_address: str = ""
    ipv4_ipip_tunnel_addr: str = field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = field(default="", name="routeReflectorClusterID")


class NodeAddress(Shape, frozen=True):
    """One address of a host."""

    address: str
    type: Literal["CalicoNodeIP", "InternalIP", "ExternalIP"] = "InternalIP"


class OrchRef(Shape, frozen=True):
    """What an orchestrator calls a host; for whoever reads it."""

    orchestrator: str
    node_name: str = ""


class NodeInterface(Shape, frozen=True):
    """An interface that a host is said to have; for whoever reads it: hosts look at their own."""

    name: str = ""
    addresses: tuple[str, ...] = ()


class NodeSpec(Shape, frozen=True):
    """A host: a machine that runs the dataplane service."""

    bgp: NodeBgp | None = None
    addresses: tuple[NodeAddress, ...] = ()
    orch_refs: tuple[OrchRef, ...] = ()
    interfaces: tuple[NodeInterface, ...] = ()
    ipv4_vxlan_tunnel_addr: str = field(default="", name="ipv4VXLANTunnelAddr")
    ipv6_vxlan_tunnel_addr: str = field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: str = field(default="", name="vxlanTunnelMACAddr")
    vxlan_tunnel_mac_addr_v6: str = field(default="", name="vxlanTunnelMACAddrV6")
    wireguard: dict[str, str] | None = None


# ---------------------------------------------------------------- the kinds


class ResourceBase(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    rename="camel",
):
    """The envelope of every kind. The tag field `kind` is the class's name."""

    #: Whether resources of the kind live in a namespace.
    NAMESPACED: ClassVar[bool] = False
    #: The kind's name in URLs and at the shell.
    PLURAL: ClassVar[str] = ""
    SHORT: ClassVar[str] = ""

    metadata: Metadata
    api_version: Literal["projectcalico.org/v3"] | UnsetType = UNSET
    #: Written by the services, never by the user; ignored on input.
    status: dict[str, Any] | None = None


class WorkloadEndpoint(ResourceBase, frozen=True, tag="WorkloadEndpoint"):
    """One interface of one workload."""

    NAMESPACED = True
    PLURAL = "workloadendpoints"
    SHORT = "wep"
    spec: WorkloadEndpointSpec


class HostEndpoint(ResourceBase, frozen=True, tag="HostEndpoint"):
    """Interfaces of one host."""

    PLURAL = "hostendpoints"
    SHORT = "hep"
    spec: HostEndpointSpec


class NetworkPolicy(ResourceBase, frozen=True, tag="NetworkPolicy"):
    """A policy for one namespace."""

    NAMESPACED = True
    PLURAL = "networkpolicies"
    SHORT = "np"
    spec: NetworkPolicySpec = field(default_factory=NetworkPolicySpec)


class GlobalNetworkPolicy(ResourceBase, frozen=True, tag="GlobalNetworkPolicy"):
    """A policy for all namespaces."""

    PLURAL = "globalnetworkpolicies"
    SHORT = "gnp"
    spec: GlobalNetworkPolicySpec = field(default_factory=GlobalNetworkPolicySpec)


class NetworkSet(ResourceBase, frozen=True, tag="NetworkSet"):
    """Labelled addresses, for one namespace."""

    NAMESPACED = True
    PLURAL = "networksets"
    SHORT = "netset"
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)


class GlobalNetworkSet(ResourceBase, frozen=True, tag="GlobalNetworkSet"):
    """Labelled addresses, for all namespaces."""

    PLURAL = "globalnetworksets"
    SHORT = "gns"
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)


class Profile(ResourceBase, frozen=True, tag="Profile"):
    """Fall-back rules and inherited labels."""

    PLURAL = "profiles"
    SHORT = "pro"
    spec: ProfileSpec = field(default_factory=ProfileSpec)


class Tier(ResourceBase, frozen=True, tag="Tier"):
    """An ordered group of policies."""

    PLURAL = "tiers"
    SHORT = "tier"
    spec: TierSpec = field(default_factory=TierSpec)


class IPPool(ResourceBase, frozen=True, tag="IPPool"):
    """A range that workload addresses come from."""

    PLURAL = "ippools"
    SHORT = "ipp"
    spec: IpPoolSpec


class BGPConfiguration(ResourceBase, frozen=True, tag="BGPConfiguration"):
    """How all hosts ("default") or one ("node.<host>") speak BGP."""

    PLURAL = "bgpconfigurations"
    SHORT = "bgpconfig"
    spec: BgpConfigurationSpec = field(default_factory=BgpConfigurationSpec)


class BGPPeer(ResourceBase, frozen=True, tag="BGPPeer"):
    """Who speaks BGP with whom."""

    PLURAL = "bgppeers"
    SHORT = "bgpp"
    spec: BgpPeerSpec


class BGPFilter(ResourceBase, frozen=True, tag="BGPFilter"):
    """What is told to a BGP peer and taken from it."""

    PLURAL = "bgpfilters"
    SHORT = "bgpf"
    spec: BgpFilterSpec = field(default_factory=BgpFilterSpec)


class IPReservation(ResourceBase, frozen=True, tag="IPReservation"):
    """Addresses that address management does not choose."""

    PLURAL = "ipreservations"
    SHORT = "ipr"
    spec: IpReservationSpec = field(default_factory=IpReservationSpec)


class IPAMConfiguration(ResourceBase, frozen=True, tag="IPAMConfiguration"):
    """How addresses are assigned; there is one, named "default"."""

    PLURAL = "ipamconfigurations"
    SHORT = "ipamconfig"
    spec: IpamConfigurationSpec = field(default_factory=IpamConfigurationSpec)


class IPAMBlock(ResourceBase, frozen=True, tag="IPAMBlock"):
    """A range of a pool and who has its addresses; written by address management alone."""

    PLURAL = "ipamblocks"
    SHORT = "block"
    spec: IpamBlockSpec


class LiveMigration(ResourceBase, frozen=True, tag="LiveMigration"):
    """A workload that is being moved from one endpoint to another, with its addresses."""

    NAMESPACED = True
    PLURAL = "livemigrations"
    SHORT = "lm"
    spec: LiveMigrationSpec


class Node(ResourceBase, frozen=True, tag="Node"):
    """A host."""

    PLURAL = "nodes"
    SHORT = "no"
    spec: NodeSpec = field(default_factory=NodeSpec)


Resource = (
    WorkloadEndpoint
    | HostEndpoint
    | NetworkPolicy
    | GlobalNetworkPolicy
    | NetworkSet
    | GlobalNetworkSet
    | Profile
    | Tier
    | IPPool
    | BGPConfiguration
    | BGPFilter
    | BGPPeer
    | IPReservation
    | IPAMConfiguration
    | IPAMBlock
    | LiveMigration
    | Node
)

#: Every kind, in the order in which references point: what is named comes before what names it.
KINDS: tuple[type[Resource], ...] = (
    Node,
    IPPool,
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    IPReservation,
    IPAMConfiguration,
    IPAMBlock,
    Tier,
    Profile,
    GlobalNetworkSet,
    NetworkSet,
    GlobalNetworkPolicy,
    NetworkPolicy,
    HostEndpoint,
    # Before what it names: a target must never be there without it.
    LiveMigration,
    WorkloadEndpoint,
)

#: Kinds that users read, and only the services write.
KEPT_KINDS: frozenset[type[Resource]] = frozenset({IPAMBlock})

KIND_BY_NAME: dict[str, type[Resource]] = {kind.__name__: kind for kind in KINDS}
KIND_BY_PLURAL: dict[str, type[Resource]] = {kind.PLURAL: kind for kind in KINDS}


class Key(Struct, frozen=True, order=True, gc=False):
    """What names a resource. `namespace` is "" for global kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `Kind namespace/name`, or `Kind name` for a global kind."""
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {place}"


def key_of(resource: Resource) -> Key:
    """Return the key that names this resource."""
    return Key(type(resource).__name__, resource.metadata.namespace or "", resource.metadata.name)
