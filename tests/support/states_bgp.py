"""States of clouds whose routes BGP spreads, and short ways to say its resources."""

from typing import Any

from hopwall_model.bgp_specs import (
    AddCommunity,
    BgpConfigurationSpec,
    BgpFilterRule,
    BgpFilterSpec,
    BgpPassword,
    BgpPeerSpec,
    Community,
    CommunityMatch,
    FilterOperation,
    PrefixAdvertisement,
    PrefixLength,
    PrependAsPath,
    SecretKeyRef,
)
from hopwall_model.cidr import Cidr
from hopwall_model.ipam_specs import IpamBlockSpec, affinity_of, block_name
from hopwall_model.resources import (
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    IPAMBlock,
    Metadata,
    Node,
    NodeBgp,
    NodeSpec,
)
from tests.support.states import EMPTY, State, endpoint, nat, pool


def block(cidr: str, host: str) -> IPAMBlock:
    """Return a host's block; nobody's for ""."""
    affinity = affinity_of(host) if host else ""
    return IPAMBlock(
        metadata=Metadata(name=block_name(Cidr(cidr))),
        spec=IpamBlockSpec(cidr=cidr, affinity=affinity),
    )


def speaker(
    name: str, v4: str = "", v6: str = "", labels: dict[str, str] | None = None, **bgp: Any
) -> Node:
    """Return a host that speaks BGP."""
    return Node(
        metadata=Metadata(name=name, labels=labels or {}),
        spec=NodeSpec(bgp=NodeBgp(ipv4_address=v4, ipv6_address=v6, **bgp)),
    )


def config(name: str = "default", **spec: Any) -> BGPConfiguration:
    """Return a BGP configuration."""
    return BGPConfiguration(metadata=Metadata(name=name), spec=BgpConfigurationSpec(**spec))


def peer(name: str, **spec: Any) -> BGPPeer:
    """Return a BGP peer."""
    return BGPPeer(metadata=Metadata(name=name), spec=BgpPeerSpec(**spec))


def bgp_filter(name: str, **spec: Any) -> BGPFilter:
    """Return a BGP filter."""
    return BGPFilter(metadata=Metadata(name=name), spec=BgpFilterSpec(**spec))


def accept(cidr: str = "", operator: Any = "In", **fields: Any) -> BgpFilterRule:
    """Return a rule that accepts."""
    match = operator if cidr else None
    return BgpFilterRule(action="Accept", cidr=cidr, match_operator=match, **fields)


def reject(cidr: str = "", operator: Any = "In", **fields: Any) -> BgpFilterRule:
    """Return a rule that rejects."""
    match = operator if cidr else None
    return BgpFilterRule(action="Reject", cidr=cidr, match_operator=match, **fields)


def password(name: str, key: str) -> BgpPassword:
    """Return where a password is."""
    return BgpPassword(secret_key_ref=SecretKeyRef(name=name, key=key))


H1 = speaker("h1", "172.18.203.1/24", "fd00:1::1/64", {"rack": "a"})
H2 = speaker("h2", "172.18.203.2/24", "", {"rack": "b"}, as_number=65001)
H3 = speaker("h3", "172.18.203.10/24", "fd00:1::3/64", {"rack": "b"})
V6_ONLY = speaker("h6", "", "fd00:1::6/64")
POOL = pool("a", "10.65.0.0/16")
POOL6 = pool("six", "fd00:65::/64")

WEB1 = endpoint("web1", "h1", "10.65.0.1/32", "fd00:65::1/128")
WEB2 = endpoint("web2", "h2", "10.65.0.2/32")

MESH = EMPTY.with_("a mesh", H1, H2, H3, V6_ONLY, POOL, POOL6, WEB1, WEB2, endpoint("x", "h9"))
MESH_SAID = MESH.with_(
    "a configured mesh",
    config(
        as_number=65000,
        listen_port=1790,
        log_severity_screen="Warning",
        ignored_interfaces=("docker*",),
        communities=(Community(name="internal", value="65000:7"),),
        prefix_advertisements=(
            PrefixAdvertisement(cidr="10.65.0.0/24", communities=("internal", "65000:1:2")),
        ),
        node_mesh_password=password("bgp", "mesh"),
        node_mesh_max_restart_time="2m",
    ),
    config("node.h3", as_number=65003, listen_port=180, log_severity_screen="Debug"),
)
MESH_OFF = MESH_SAID.with_("no mesh", config(node_to_node_mesh_enabled=False))
MESH_MOVED = MESH_SAID.with_(
    "hosts change their addresses",
    speaker("h1", "172.18.203.9/24"),
    speaker("h3", "172.18.203.10/24", "", {"rack": "c"}),
).without("and one goes", V6_ONLY)

MESH_TWINS = MESH.with_(
    "hosts that claim one address: the first by name is spoken with",
    speaker("h8", "172.18.203.2/24"),
    speaker("h0", "172.18.203.2/24", "fd00:1::3/64"),
)

BLOCKS = MESH.with_(
    "blocks",
    block("10.65.0.0/26", "h1"),
    block("10.65.0.64/26", "h2"),
    block("10.65.1.0/26", "h2"),
    block("10.65.200.0/24", ""),
    block("fd00:65::/122", "h3"),
    block("10.99.0.0/26", "h3"),
)
STRAYS = BLOCKS.with_(
    "borrowed, moved and floating addresses",
    endpoint("borrowed", "h3", "10.65.0.9/32", "10.65.7.1/32"),
    endpoint("moved", "h1", "10.65.1.5/32"),
    endpoint("nat", "h3", "10.65.9.9/32", ip_nats=(nat("10.65.0.10", "10.65.9.9"),)),
)
BLOCKS_MOVED = STRAYS.with_(
    "blocks change hands",
    block("10.65.0.0/26", "h3"),
    block("10.65.0.64/26", ""),
    block("fd00:65::/122", "h1"),
).without("and one goes", block("10.65.1.0/26", "h2"))
STRAYS_SWAPPED = STRAYS.with_(
    "strays change hosts and owners",
    endpoint("moved", "h1", "10.65.0.9/32"),
    endpoint("borrowed", "h2", "10.65.1.5/32"),
)
POOLS_OTHERWISE = STRAYS.with_(
    "pools are not announced, or smaller",
    pool("a", "10.65.0.0/24"),
    pool("b", "10.65.1.0/24", disabled=True),
    pool("c", "10.65.200.0/22", disable_bgp_export=True),
    pool("six", "fd00:65::/64", disable_bgp_export=True),
)

RR = speaker("rr", "172.18.203.5/24", "", {"rr": "yes"}, route_reflector_cluster_id="1.0.0.1")
RR2 = speaker("rr2", "172.18.203.6/24", "", {"rr": "yes"}, route_reflector_cluster_id="1.0.0.1")
RR3 = speaker("rr3", "172.18.203.7/24", "", {"rr": "other"}, route_reflector_cluster_id="1.0.0.2")
REFLECTED = STRAYS.with_(
    "reflectors",
    RR,
    RR2,
    RR3,
    config(node_to_node_mesh_enabled=False),
    peer("to-reflectors", node_selector="!has(rr)", peer_selector="rr == 'yes'", bfd=True),
    peer("between", node_selector="has(rr)", peer_selector="has(rr)"),
    peer("by-name", node="h2", peer_selector="rr == 'other'"),
)
REFLECTOR_LEAVES = REFLECTED.with_(
    "a reflector becomes an ordinary host",
    speaker("rr", "172.18.203.5/24", "", {"rr": "yes"}),
    config(node_to_node_mesh_enabled=True),
)
RELABELLED = REFLECTED.with_(
    "labels move hosts between peerings",
    speaker("h3", "172.18.203.10/24", "fd00:1::3/64", {"rr": "yes"}),
    speaker("rr2", "172.18.203.6/24", "", {}, route_reflector_cluster_id="1.0.0.1"),
    speaker("rr3", "172.18.203.7/24", "", {}, route_reflector_cluster_id="1.0.0.2"),
)
REFLECTOR_UNNAMED = REFLECTED.with_(
    "a label that only a peering by name looks at",
    speaker("rr3", "172.18.203.7/24", "", {"rr": "x"}, route_reflector_cluster_id="1.0.0.2"),
).without("", peer("to-reflectors"), peer("between"))
ONE_LEFT = REFLECTOR_UNNAMED.with_("and back", RR3)
ONE_WAY = REFLECTED.with_(
    "no reverse peerings",
    peer(
        "to-reflectors",
        node_selector="!has(rr)",
        peer_selector="rr == 'yes'",
        reverse_peering="Manual",
    ),
)

FABRIC = STRAYS.with_(
    "routers that are none of ours",
    peer("tor", peer_ip="192.0.2.1", as_number=65100, filters=("in", "out"), bfd=True),
    peer("tor6", peer_ip="[fd00:2::1]:1790", as_number=65100, node_selector="rack == 'b'"),
    peer(
        "tor-b",
        peer_ip="192.0.2.1:1790",
        as_number=65101,
        node_selector="rack == 'b'",
        filters=("everything", "absent"),
        local_as_number=65009,
        keep_original_next_hop=True,
        password=password("tor", "b"),
        source_address="None",
        max_restart_time="60s",
        keepalive_time="10s",
        num_allowed_local_as_numbers=1,
        ttl_security=1,
        reachable_by="172.18.203.254",
    ),
    peer("tor-h3", peer_ip="192.0.2.1", as_number=65102, node="h3", filters=("everything",)),
    peer("one-of-ours", peer_ip="172.18.203.2", as_number=65001, next_hop_mode="Self", bfd=True),
    bgp_filter(
        "in",
        import_v4=(
            accept("0.0.0.0/0", "Equal"),
            reject("192.0.2.0/24"),
            accept("10.0.0.0/8", prefix_length=PrefixLength(min=9, max=24)),
            accept("10.65.3.0/24"),
            accept("198.51.100.0/24", "NotIn", peer_type="eBGP"),
            accept("203.0.113.0/24", "Equal", prefix_length=PrefixLength(max=16)),
        ),
        export_v4=(reject("10.65.0.0/24", "NotEqual", source="RemotePeers", interface="eth0"),),
        import_v6=(accept("::/0", prefix_length=PrefixLength(min=32, max=48)),),
    ),
    bgp_filter(
        "out",
        export_v4=(
            accept(
                communities=CommunityMatch(values=("65000:1",)),
                as_path_prefix=(65000, 65001),
                operations=(
                    FilterOperation(add_community=AddCommunity(value="65000:2")),
                    FilterOperation(prepend_as_path=PrependAsPath(prefix=(65000, 65001))),
                    FilterOperation(prepend_as_path=PrependAsPath(prefix=(65002,))),
                ),
            ),
        ),
    ),
    bgp_filter("everything", import_v4=(accept(),), import_v6=(accept(),)),
)
FABRIC_OTHERWISE = FABRIC.with_(
    "filters and routers change",
    bgp_filter("in", import_v4=(accept("10.0.0.0/8"),)),
    bgp_filter("absent", export_v4=(accept(),)),
    peer("tor", peer_ip="192.0.2.1", as_number=65100, filters=("in",), node="h1"),
    peer("tor6", peer_ip="fd00:2::2", as_number=65100, filters=("everything",)),
    speaker("router", "192.0.2.1/24"),
).without("and one goes", peer("tor-h3", peer_ip="192.0.2.1"))

BGP_WALKS: dict[str, list[State]] = {
    "mesh": [MESH, MESH_SAID, MESH_MOVED, MESH_OFF, MESH_TWINS, MESH_SAID, MESH],
    "blocks": [MESH, BLOCKS, STRAYS, BLOCKS_MOVED, STRAYS, STRAYS_SWAPPED, MESH],
    "announced pools": [STRAYS, POOLS_OTHERWISE, BLOCKS_MOVED, POOLS_OTHERWISE],
    "reflectors": [STRAYS, REFLECTED, REFLECTOR_LEAVES, REFLECTED, RELABELLED, ONE_WAY, REFLECTED],
    "by name": [REFLECTED, REFLECTOR_UNNAMED, ONE_LEFT, REFLECTOR_UNNAMED],
    "routers": [STRAYS, FABRIC, FABRIC_OTHERWISE, MESH_SAID, FABRIC],
}
