"""Fields that are valid in Calico and not carried out here: each is refused by name, never ignored.

Whoever implements a field removes its row. A field is refused when it has another value than its default.
"""

from functools import lru_cache
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from hopwall_model.bgp_specs import (
    BgpConfigurationSpec,
    BgpFilterRule,
    BgpPeerSpec,
    FilterOperation,
)
from hopwall_model.ipam_specs import IpamConfigurationSpec
from hopwall_model.problems import Code, Findings, step
from hopwall_model.resources import (
    EntityRule,
    IpPoolSpec,
    NetworkPolicySpec,
    NodeBgp,
    NodeSpec,
    Rule,
    WorkloadEndpointSpec,
)

_REMOVE = "is not implemented by this release; remove the field."
_ENCAPSULATION = "is not supported: traffic is routed without encapsulation; use Never."
_TUNNEL = "is not supported: traffic is routed without encapsulation; remove the field."
_SERVICES = "is not supported: there are no services here; remove the field."
_ROUTE_METRIC = "is not supported: every route of ours has one metric; remove the field."
_WORKLOAD_PEERS = "is not supported: workloads do not speak BGP with their host; remove the field."
_ACCOUNTS = "is not supported: there are no service accounts here; select by labels."

NOT_IMPLEMENTED: dict[tuple[type[Struct], str], str] = {
    (WorkloadEndpointSpec, "qos_controls"): _REMOVE,
    (Rule, "http"): "is not supported: rules end at ports; remove it, or match ports instead.",
    (EntityRule, "services"): "is not supported: there are no services here; use nets and ports.",
    (EntityRule, "service_accounts"): _ACCOUNTS,
    (NetworkPolicySpec, "service_account_selector"): _ACCOUNTS,
    (IpPoolSpec, "ipip_mode"): _ENCAPSULATION,
    (IpPoolSpec, "vxlan_mode"): _ENCAPSULATION,
    (IpamConfigurationSpec, "auto_allocate_blocks"): (
        "is not supported: hosts get blocks when they need them; remove the field, or set"
        " maxBlocksPerHost."
    ),
    (IpamConfigurationSpec, "kube_virt_vm_address_persistence"): (
        "is not supported: an address stays with its handle until it is released; remove the field."
    ),
    (NodeBgp, "ipv4_ipip_tunnel_addr"): _TUNNEL,
    (NodeSpec, "ipv4_vxlan_tunnel_addr"): _TUNNEL,
    (NodeSpec, "ipv6_vxlan_tunnel_addr"): _TUNNEL,
    (NodeSpec, "vxlan_tunnel_mac_addr"): _TUNNEL,
    (NodeSpec, "vxlan_tunnel_mac_addr_v6"): _TUNNEL,
    (NodeSpec, "wireguard"): _TUNNEL,
    (BgpConfigurationSpec, "bind_mode"): (
        "is not supported: the daemon listens at all addresses, and only to its peers; use None."
    ),
    (BgpConfigurationSpec, "service_cluster_ips"): _SERVICES,
    (BgpConfigurationSpec, "service_external_ips"): _SERVICES,
    (BgpConfigurationSpec, "service_load_balancer_ips"): _SERVICES,
    (BgpConfigurationSpec, "service_load_balancer_aggregation"): _SERVICES,
    (BgpConfigurationSpec, "local_workload_peering_ipv4"): _WORKLOAD_PEERS,
    (BgpConfigurationSpec, "local_workload_peering_ipv6"): _WORKLOAD_PEERS,
    (BgpConfigurationSpec, "program_cluster_routes"): (
        "is not supported: the routing setting of calc says who programs routes; remove the field."
    ),
    (BgpConfigurationSpec, "ipv4_normal_route_priority"): _ROUTE_METRIC,
    (BgpConfigurationSpec, "ipv6_normal_route_priority"): _ROUTE_METRIC,
    (BgpPeerSpec, "local_workload_selector"): _WORKLOAD_PEERS,
    (BgpFilterRule, "priority"): _ROUTE_METRIC,
    (FilterOperation, "set_priority"): _ROUTE_METRIC,
}


def _default_of(info: FieldInfo) -> Any:
    return info.default if info.default is not NODEFAULT else info.default_factory()


@lru_cache(maxsize=64)
def _rows(type_: type[Struct]) -> tuple[tuple[str, str, Any, str], ...]:
    return tuple(
        (info.name, info.encode_name, _default_of(info), reason)
        for info in fields(type_)
        for base in type_.__mro__
        if (reason := NOT_IMPLEMENTED.get((base, info.name), ""))
    )


def refuse_unimplemented(found: Findings, pointer: str, part: Struct) -> None:
    """Note a problem for every field of this part that is set and not implemented."""
    for name, wire_name, default, reason in _rows(type(part)):
        if getattr(part, name) != default:
            found.add(step(pointer, wire_name), f"{wire_name} {reason}", Code.NOT_IMPLEMENTED)
