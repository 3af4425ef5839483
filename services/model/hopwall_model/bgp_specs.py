"""What BGP is to do: with whom hosts speak, what they say and what they believe.

Source: Calico v3 API, BGPConfiguration, BGPPeer, BGPFilter. `bfd` is ours: Calico's open source has none.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from hopwall_model.shapes import Shape

#: The BGPConfiguration of all hosts; one host's own is "node." and its name. Source: Calico.
DEFAULT_CONFIGURATION = "default"
NODE_CONFIGURATION_PREFIX = "node."
DEFAULT_AS = 64512
BGP_PORT = 179

Port = Annotated[int, Meta(ge=1, le=65535)]
AsNumber = int | str


class SecretKeyRef(Shape, frozen=True):
    """A key of a secret: a file on each host that needs it, never a value."""

    name: str
    key: str


class BgpPassword(Shape, frozen=True):
    """Where a session's password is."""

    secret_key_ref: SecretKeyRef


class Community(Shape, frozen=True):
    """A community with a name: "65000:1" (RFC 1997) or "65000:1:2" (RFC 8092)."""

    name: str
    value: str


class PrefixAdvertisement(Shape, frozen=True):
    """Communities, by name or value, that routes within a range are announced with."""

    cidr: str
    communities: Annotated[tuple[str, ...], Meta(max_length=64)] = ()


class ServiceRange(Shape, frozen=True):
    """A range of a Kubernetes service: accepted as a shape so that it can be refused by name."""

    cidr: str = ""


class BgpConfigurationSpec(Shape, frozen=True):
    """How all hosts, or one, speak BGP."""

    log_severity_screen: Literal["None", "Debug", "Info", "Warning", "Error", "Fatal"] | None = None
    node_to_node_mesh_enabled: bool | None = None
    as_number: AsNumber | None = None
    listen_port: Port | None = None
    ignored_interfaces: Annotated[tuple[str, ...], Meta(max_length=256)] = ()
    communities: Annotated[tuple[Community, ...], Meta(max_length=256)] = ()
    prefix_advertisements: Annotated[tuple[PrefixAdvertisement, ...], Meta(max_length=256)] = ()
    node_mesh_password: BgpPassword | None = None
    #: A duration: "120s", "2m".
    node_mesh_max_restart_time: str = ""
    bind_mode: Literal["None", "NodeIP"] = "None"
    service_cluster_ips: tuple[ServiceRange, ...] = field(default=(), name="serviceClusterIPs")
    service_external_ips: tuple[ServiceRange, ...] = field(default=(), name="serviceExternalIPs")
    service_load_balancer_ips: tuple[ServiceRange, ...] = field(
        default=(), name="serviceLoadBalancerIPs"
    )
    service_load_balancer_aggregation: str = ""
    local_workload_peering_ipv4: str = field(default="", name="localWorkloadPeeringIPV4")
    local_workload_peering_ipv6: str = field(default="", name="localWorkloadPeeringIPV6")
    program_cluster_routes: str = ""
    ipv4_normal_route_priority: int | None = None
    ipv6_normal_route_priority: int | None = None


class BgpPeerSpec(Shape, frozen=True):
    """Who speaks with whom: the hosts of `node` or `nodeSelector` (all without), with an address or hosts."""

    node: str = ""
    node_selector: str = ""
    #: "192.0.2.1", "192.0.2.1:1790", "[fd00::1]:1790".
    peer_ip: str = field(default="", name="peerIP")
    as_number: AsNumber | None = None
    local_as_number: AsNumber | None = field(default=None, name="localASNumber")
    peer_selector: str = ""
    #: The other side of a `peerSelector` gets its session too.
    reverse_peering: Literal["Auto", "Manual"] = "Auto"
    keep_original_next_hop: bool = False
    next_hop_mode: Literal["Auto", "Self", "Keep"] | None = None
    password: BgpPassword | None = None
    source_address: Literal["UseNodeIP", "None"] = "UseNodeIP"
    max_restart_time: str = ""
    keepalive_time: str = ""
    num_allowed_local_as_numbers: Annotated[int, Meta(ge=0, le=255)] = field(
        default=0, name="numAllowedLocalASNumbers"
    )
    #: Hops to the peer, all others are refused (RFC 5082); 0 is off.
    ttl_security: Annotated[int, Meta(ge=0, le=255)] = 0
    reachable_by: str = ""
    filters: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    local_workload_selector: str = ""
    bfd: bool = False


class PrefixLength(Shape, frozen=True):
    """Prefix lengths, both included."""

    min: Annotated[int, Meta(ge=0, le=128)] | None = None
    max: Annotated[int, Meta(ge=0, le=128)] | None = None


class CommunityMatch(Shape, frozen=True):
    """The route has the community."""

    values: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1)]


class AddCommunity(Shape, frozen=True):
    """Give the route a community."""

    value: str


class PrependAsPath(Shape, frozen=True):
    """Put numbers before the route's AS path; the first given becomes the first."""

    prefix: Annotated[tuple[AsNumber, ...], Meta(min_length=1, max_length=10)]


class SetPriority(Shape, frozen=True):
    """A kernel metric: accepted as a shape so that it can be refused by name."""

    value: int


class FilterOperation(Shape, frozen=True):
    """One change to a route that is accepted: exactly one of its fields."""

    add_community: AddCommunity | None = None
    prepend_as_path: PrependAsPath | None = field(default=None, name="prependASPath")
    set_priority: SetPriority | None = None


class BgpFilterRule(Shape, frozen=True):
    """What a route must be, and what becomes of it; all given fields must hold."""

    action: Literal["Accept", "Reject"]
    cidr: str = ""
    match_operator: Literal["Equal", "NotEqual", "In", "NotIn"] | None = None
    prefix_length: PrefixLength | None = None
    source: Literal["RemotePeers"] | None = None
    interface: str = ""
    peer_type: Literal["eBGP", "iBGP"] | None = None
    communities: CommunityMatch | None = None
    as_path_prefix: Annotated[tuple[AsNumber, ...], Meta(max_length=64)] = ()
    priority: int | None = None
    operations: Annotated[tuple[FilterOperation, ...], Meta(max_length=10)] = ()


FilterRules = Annotated[tuple[BgpFilterRule, ...], Meta(max_length=1024)]


class BgpFilterSpec(Shape, frozen=True):
    """Rules for what is told to a peer, and for what is taken from it, by family; the first that matches."""

    export_v4: FilterRules = ()
    import_v4: FilterRules = ()
    export_v6: FilterRules = ()
    import_v6: FilterRules = ()
