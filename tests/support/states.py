"""Immutable named states of intent, derived from each other: what the calc tests walk through."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from hopwall_model.resources import (
    EndpointPort,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    GlobalNetworkSet,
    HostEndpoint,
    HostEndpointPort,
    HostEndpointSpec,
    Icmp,
    IpNat,
    IPPool,
    IpPoolSpec,
    Key,
    Metadata,
    NetworkPolicy,
    NetworkPolicySpec,
    NetworkSet,
    NetworkSetSpec,
    Node,
    NodeAddress,
    NodeBgp,
    NodeSpec,
    Profile,
    ProfileSpec,
    Resource,
    Rule,
    Tier,
    TierSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    key_of,
)


class State:
    """A name and the resources that are there."""

    def __init__(self, name: str, resources: Mapping[Key, Resource] | None = None) -> None:
        self.name = name
        self.resources: dict[Key, Resource] = dict(resources or {})

    def with_(self, name: str, *resources: Resource) -> "State":
        """Return this state with these resources as well, or in place of those of the same key."""
        return State(name, {**self.resources, **{key_of(r): r for r in resources}})

    def without(self, name: str, *resources: Resource) -> "State":
        """Return this state without these resources."""
        gone = {key_of(resource) for resource in resources}
        return State(name, {k: r for k, r in self.resources.items() if k not in gone})

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.resources.values())

    def __repr__(self) -> str:
        return self.name


# ---------------------------------------------------------------- short ways to say a resource


def endpoint(
    name: str,
    host: str = "h1",
    *addresses: str,
    labels: dict[str, str] | None = None,
    profiles: tuple[str, ...] = ("default",),
    namespace: str = "default",
    created: str | None = None,
    **more: Any,
) -> WorkloadEndpoint:
    """Return a workload endpoint."""
    return WorkloadEndpoint(
        metadata=Metadata(
            name=name, namespace=namespace, labels=labels or {}, creation_timestamp=created
        ),
        spec=WorkloadEndpointSpec(
            node=host,
            interface_name=f"tap-{name}"[:15],
            ip_networks=addresses,
            profiles=profiles,
            **more,
        ),
    )


def host_endpoint(
    name: str,
    host: str = "h1",
    interface: str = "*",
    *addresses: str,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **more: Any,
) -> HostEndpoint:
    """Return a host endpoint with these expected addresses."""
    return HostEndpoint(
        metadata=Metadata(name=name, labels=labels or {}, annotations=annotations or {}),
        spec=HostEndpointSpec(node=host, interface_name=interface, expected_ips=addresses, **more),
    )


def pool(name: str, cidr: str, **more: Any) -> IPPool:
    """Return a pool."""
    return IPPool(metadata=Metadata(name=name), spec=IpPoolSpec(cidr=cidr, **more))


def nat(external: str, internal: str) -> IpNat:
    """Return a floating address."""
    return IpNat(external_ip=external, internal_ip=internal)


def rule(action: str = "Allow", **fields: Any) -> Rule:
    """Return a rule; `source` and `destination` as dicts of fields."""
    for side in ("source", "destination"):
        if side in fields:
            fields[side] = EntityRule(**fields[side])
    return Rule(action=msgspec.convert(action, Any), **fields)


def gnp(name: str, selector: str, *ingress: Rule, **spec: Any) -> GlobalNetworkPolicy:
    """Return a global network policy with ingress rules."""
    return GlobalNetworkPolicy(
        metadata=Metadata(name=name),
        spec=GlobalNetworkPolicySpec(selector=selector, ingress=ingress, **spec),
    )


def np(
    name: str, selector: str, *ingress: Rule, namespace: str = "default", **spec: Any
) -> NetworkPolicy:
    """Return a network policy with ingress rules."""
    return NetworkPolicy(
        metadata=Metadata(name=name, namespace=namespace),
        spec=NetworkPolicySpec(selector=selector, ingress=ingress, **spec),
    )


def profile(name: str, labels: dict[str, str] | None = None, *ingress: Rule) -> Profile:
    """Return a profile that allows all egress."""
    return Profile(
        metadata=Metadata(name=name),
        spec=ProfileSpec(ingress=ingress, egress=(rule(),), labels_to_apply=labels or {}),
    )


def tier(name: str, order: float | None, action: str = "Deny") -> Tier:
    """Return a tier."""
    return Tier(
        metadata=Metadata(name=name),
        spec=TierSpec(order=order, default_action=msgspec.convert(action, Any)),
    )


def global_set(name: str, labels: dict[str, str], *nets: str) -> GlobalNetworkSet:
    """Return a global network set."""
    return GlobalNetworkSet(
        metadata=Metadata(name=name, labels=labels), spec=NetworkSetSpec(nets=nets)
    )


def network_set(
    name: str, labels: dict[str, str], *nets: str, namespace: str = "default"
) -> NetworkSet:
    """Return a network set."""
    return NetworkSet(
        metadata=Metadata(name=name, namespace=namespace, labels=labels),
        spec=NetworkSetSpec(nets=nets),
    )


def host(name: str, v4: str = "", v6: str = "", *addresses: NodeAddress) -> Node:
    """Return a host with BGP addresses."""
    bgp = NodeBgp(ipv4_address=v4, ipv6_address=v6) if v4 or v6 else None
    return Node(metadata=Metadata(name=name), spec=NodeSpec(bgp=bgp, addresses=addresses))


# ---------------------------------------------------------------- the states

EMPTY = State("empty")

WEB1 = endpoint("web1", "h1", "10.65.0.1/32", labels={"role": "web"})
WEB2 = endpoint("web2", "h2", "10.65.0.2/32", "fd00::2/128", labels={"role": "web"})
DB1 = endpoint("db1", "h2", "10.65.0.9/32", labels={"role": "db"})
DEFAULT = profile("default", {"zone": "a"}, rule("Deny"))

ONE_HOST = EMPTY.with_("a declared host", host("h1", "172.18.203.1/24"))
ONE_ENDPOINT = EMPTY.with_("an endpoint whose profile and host are absent", WEB1)
PROFILED = ONE_ENDPOINT.with_("its profile is there", DEFAULT)
TWO_HOSTS = PROFILED.with_(
    "endpoints on two hosts",
    WEB2,
    DB1,
    host("h1", "172.18.203.1/24"),
    host(
        "h2",
        "",
        "",
        NodeAddress(address="172.18.203.3", type="InternalIP"),
        NodeAddress(address="172.18.203.2", type="CalicoNodeIP"),
        NodeAddress(address="fd00:1::2", type="InternalIP"),
    ),
)

FROM_WEB = gnp(
    "from-web",
    "role == 'db'",
    rule(protocol="TCP", source={"selector": "role == 'web'"}, destination={"ports": (5432,)}),
)
POLICED = TWO_HOSTS.with_("a policy with a selector set", FROM_WEB)
POLICY_UNUSED = TWO_HOSTS.with_(
    "a policy that selects nobody",
    gnp("none", "role == 'cache'", rule(source={"selector": "x=='1'"})),
)
RELABELLED = POLICED.with_(
    "an endpoint leaves one role for the other",
    endpoint("web2", "h2", "10.65.0.2/32", labels={"role": "db"}),
)
MOVED = POLICED.with_(
    "an endpoint moves to another host",
    endpoint("db1", "h1", "10.65.0.9/32", labels={"role": "db"}),
)
READDRESSED = POLICED.with_(
    "an endpoint changes its addresses",
    endpoint("web2", "h2", "10.65.0.22/32", labels={"role": "web"}),
)
SHARED_SET = POLICED.with_(
    "two policies share a set; one has more",
    gnp("from-web-too", "zone == 'a'", rule(source={"selector": "role == 'web'"}), order=5.0),
    gnp(
        "nets",
        "all()",
        rule("Log", source={"nets": ("10.0.0.0/8", "192.168.0.0/16")}),
        rule("Deny", source={"not_nets": ("10.0.0.0/8", "0.0.0.0/0")}),
        rule(source={"nets": ("10.0.0.0/8",)}, destination={"not_nets": ("10.1.0.0/16",)}),
    ),
)
ZONE_CHANGED = SHARED_SET.with_(
    "a profile's labels change", profile("default", {"zone": "b", "role": "web"}, rule("Deny"))
)
CONFLICT = POLICED.with_(
    "an older and a younger endpoint claim an address",
    endpoint(
        "old", "h1", "10.65.0.1/32", labels={"role": "web"}, created="2020-01-01T00:00:00.000Z"
    ),
    endpoint(
        "young",
        "h3",
        "10.65.0.9/32",
        "10.65.0.33/32",
        labels={"role": "web"},
        created="2024-01-01T00:00:00.000Z",
    ),
)
CONFLICT_RESOLVED = CONFLICT.without("the owners go, the others take over", DB1, endpoint("old"))
SAME_NET_TWICE = POLICED.with_(
    "an address is in a set twice",
    global_set("s1", {"role": "web"}, "10.65.0.1/32", "192.0.2.0/24", "0.0.0.0/0"),
    network_set("s2", {"role": "web"}, "192.0.2.0/24"),
)
TIERED = POLICED.with_(
    "tiers with pass, order and ties",
    tier("early", 10.0, "Pass"),
    tier("late", None),
    gnp("z", "all()", rule("Pass"), tier="early", order=1.0),
    gnp("a", "all()", rule("Pass"), tier="early"),
    gnp("b", "has(role)", rule("Pass"), tier="early", types=("Ingress", "Egress")),
    gnp("l", "role == 'web'", rule(), tier="late", egress=(rule(),)),
    np("e", "role == 'web'", egress=(rule(),), order=-1.0),
)
TIER_REORDERED = TIERED.with_(
    "a tier changes its place and end", tier("early", 5_000_000.0), tier("late", 3.0, "Pass")
)
TIER_MISSING = TIERED.without("a tier is absent: its policies deny", tier("early", None))
NAMESPACED = TWO_HOSTS.with_(
    "rules of namespaces",
    endpoint("web1", "h3", "10.66.0.1/32", labels={"role": "web"}, namespace="blue"),
    endpoint(
        "liar",
        "h3",
        "10.66.0.2/32",
        namespace="blue",
        labels={"pcns.env": "prod", "projectcalico.org/namespace": "default", "role": "web"},
        profiles=("kns.default",),
        orchestrator="nomad",
    ),
    profile("kns.default", {"pcns.env": "prod", "plain": "yes"}),
    profile("kns.blue", {"pcns.env": "test"}),
    global_set("outside", {"role": "web", "kind": "set"}, "198.51.100.0/24"),
    network_set("inside", {"role": "web", "kind": "set"}, "203.0.113.0/24"),
    np("own", "all()", rule(source={"selector": "role == 'web'"})),
    np("own-not", "all()", rule(source={"not_selector": "role == 'web'"})),
    np("other", "all()", rule(source={"namespace_selector": "env == 'test'"})),
    np("any", "all()", rule(source={"namespace_selector": "all()", "selector": "has(role)"})),
    np("global", "all()", rule(source={"namespace_selector": "global()"}), namespace="blue"),
    gnp("everywhere", "all()", rule(source={"selector": "has(role)"})),
    gnp("not", "all()", rule(source={"selector": "has(role)", "not_selector": "kind == 'set'"})),
    gnp("prod", "all()", rule("Deny"), namespace_selector="env != 'test'"),
    gnp("named", "all()", rule("Deny"), namespace_selector="projectcalico.org/name == 'blue'"),
    gnp("nomad", "projectcalico.org/orchestrator == 'nomad'", rule("Deny")),
)
NAMESPACE_RELABELLED = NAMESPACED.with_(
    "a namespace's labels change", profile("kns.blue", {"pcns.env": "prod"})
)
EVERY_FIELD = TWO_HOSTS.with_(
    "every field of a rule",
    gnp(
        "all-fields",
        "all()",
        rule(protocol="ICMP", icmp=Icmp(type=8, code=0), ip_version=4),
        rule(protocol="ICMPv6", not_icmp=Icmp(type=128)),
        rule(not_protocol=132),
        rule(
            protocol=17,
            source={"ports": ("1000:2000", 53, 54, 2001), "not_ports": (1500,)},
            destination={"nets": ("::/0",), "not_selector": "has(a)"},
        ),
    ),
)
MANY = TWO_HOSTS.with_(
    "a set of several buckets",
    *(
        endpoint(f"m{i}", f"h{i % 3}", f"10.70.{i // 250}.{i % 250 + 1}/32", labels={"role": "web"})
        for i in range(700)
    ),
    FROM_WEB,
)
MANY_FEWER = State(
    "it shrinks again",
    {k: r for k, r in MANY.resources.items() if not (k.name[0] == "m" and int(k.name[1:]) >= 20)},
)

EARLY = {"apply_on_forward": True, "do_not_track": True}
BEFORE_NAT = {"apply_on_forward": True, "pre_dnat": True}
UPLINK = host_endpoint(
    "uplink",
    "h1",
    "eth0",
    "172.18.203.1",
    "fd00:1::1",
    labels={"role": "web", "side": "host"},
    profiles=("default",),
    annotations={"hopwall.io/force": "true"},
)
HOSTED = POLICED.with_(
    "host endpoints, policies in every place",
    UPLINK,
    host_endpoint("all", "h9", "*", labels={"side": "host", "role": "db"}, profiles=("absent",)),
    host_endpoint("by-address", "h2", "", "172.18.203.2", labels={"side": "host"}),
    tier("early", 10.0),
    gnp("untracked", "has(side)", rule("Deny"), egress=(rule(),), **EARLY),
    gnp("untracked-early", "all()", rule(), tier="early", **EARLY),
    gnp("before-nat", "all()", rule(source={"selector": "side == 'host'"}), **BEFORE_NAT),
    gnp("forward", "all()", rule(), apply_on_forward=True, tier="early", egress=(rule("Log"),)),
    gnp("own", "side == 'host'", rule(protocol="TCP", destination={"ports": (22,)})),
    gnp("spaced", "all()", rule(), namespace_selector="all()"),
    gnp("unspaced", "all()", rule(), namespace_selector="env != 'x'"),
    np("np", "all()", rule()),
)
HOSTED_OTHERWISE = HOSTED.with_(
    "host endpoints change, policies change their place",
    host_endpoint("uplink", "h1", "eth1", "172.18.203.9", labels={"side": "host"}),
    host_endpoint("all", "h10", "*", labels={"role": "web"}),
    gnp("untracked", "has(side)", rule("Deny"), **BEFORE_NAT),
    gnp("before-nat", "all()", rule()),
    gnp("forward", "all()", rule(), tier="early"),
    tier("early", 10.0, "Pass"),
)
HTTP = (EndpointPort(name="http", port=8080), EndpointPort(name="http", port=8081))
DNS = EndpointPort(name="dns", port=53, protocol="UDP")
BY_NAME = TWO_HOSTS.with_(
    "ports by name",
    endpoint("web1", "h1", "10.65.0.1/32", labels={"role": "web"}, ports=HTTP),
    endpoint("web2", "h2", "10.65.0.2/32", "fd00::2/128", labels={"role": "web"}, ports=(DNS,)),
    host_endpoint(
        "uplink",
        "h1",
        "eth0",
        "172.18.203.1",
        "fd00:1::1",
        labels={"role": "db"},
        ports=(HostEndpointPort(name="http", port=80), HostEndpointPort(name="dns", port=53)),
    ),
    gnp(
        "ports",
        "all()",
        rule(protocol="TCP", destination={"ports": ("http", 443, "dns", "http")}),
        rule(protocol="UDP", destination={"ports": ("dns",), "not_ports": ("http", "1:9")}),
        rule(
            protocol=6,
            source={"ports": ("http",), "selector": "role == 'web'"},
            destination={"not_ports": ("http",), "selector": "role == 'db'"},
        ),
        rule(protocol="SCTP", destination={"ports": ("nobody",)}),
    ),
)
BY_NAME_OTHERWISE = BY_NAME.with_(
    "ports and addresses change under the names",
    endpoint("web1", "h1", "10.65.0.11/32", labels={"role": "db"}, ports=HTTP[1:]),
    endpoint("web2", "h2", "10.65.0.2/32", labels={"role": "web"}, ports=(DNS, *HTTP[:1])),
    endpoint("old", "h1", "10.65.0.2/32", created="2020-01-01T00:00:00.000Z"),
    host_endpoint("uplink", "h1", "eth0", "172.18.203.7", labels={"role": "db"}, ports=()),
)
FLOATING = POLICED.with_(
    "floating addresses",
    endpoint(
        "web1",
        "h1",
        "10.65.0.1/32",
        "fd00::1/128",
        labels={"role": "web"},
        created="2021",
        ip_nats=(nat("192.0.2.1", "10.65.0.1"), nat("fd00:9::1", "fd00::1")),
    ),
    endpoint(
        "web2",
        "h2",
        "10.65.0.2/32",
        "10.65.0.3/32",
        labels={"role": "web"},
        created="2022",
        ip_nats=(
            nat("192.0.2.1", "10.65.0.2"),
            nat("192.0.2.2", "10.65.0.2"),
            nat("192.0.2.3", "10.65.0.3"),
        ),
    ),
)
FLOATING_LOST = FLOATING.with_(
    "an older endpoint takes an internal and an external address",
    endpoint("old", "h3", "10.65.0.3/32", "192.0.2.2/32", created="2020"),
).without("the first of them is gone", WEB1)
POOLED = POLICED.with_(
    "pools",
    pool("a", "10.65.0.0/16", nat_outgoing=True),
    pool("b", "10.64.0.0/10", disabled=True),
    pool("c", "fd00::/64", nat_outgoing=True),
)
POOLED_OTHERWISE = POOLED.with_(
    "pools change", pool("a", "10.65.0.0/16"), pool("c", "fd00:0:0:1::/64", nat_outgoing=True)
).with_("and a host comes", host("h7"))
LOGS = (rule("Log"), rule("Log", protocol="TCP"))
LOGGED = TWO_HOSTS.with_(
    "tiers of nothing but log rules",
    tier("watch", 1.0),
    gnp("watch", "all()", *LOGS, tier="watch", types=("Ingress", "Egress")),
    np("watch-too", "role == 'web'", tier="watch", egress=(rule("Log"),), types=("Egress",)),
    gnp("lost", "role == 'db'", rule("Log"), tier="absent"),
    UPLINK,
)
LOGGED_OTHERWISE = LOGGED.with_(
    "a policy begins to do more than log",
    gnp("watch", "all()", rule("Log"), rule(), tier="watch", egress=LOGS),
)

#: Each list is walked in order; the expanders make more walks of it.
WALKS: dict[str, list[State]] = {
    "growing up": [ONE_HOST, ONE_ENDPOINT, PROFILED, TWO_HOSTS, POLICED, POLICY_UNUSED],
    "labels": [POLICED, RELABELLED, POLICED, ZONE_CHANGED, SHARED_SET],
    "moves": [POLICED, MOVED, READDRESSED, TWO_HOSTS],
    "conflicts": [POLICED, CONFLICT, CONFLICT_RESOLVED, CONFLICT],
    "shared addresses": [SAME_NET_TWICE, POLICED, SAME_NET_TWICE, TWO_HOSTS],
    "tiers": [POLICED, TIERED, TIER_REORDERED, TIER_MISSING, TIERED],
    "namespaces": [NAMESPACED, NAMESPACE_RELABELLED, TWO_HOSTS, NAMESPACED],
    "rule fields": [EVERY_FIELD, SHARED_SET, EVERY_FIELD],
    "host endpoints": [HOSTED, HOSTED_OTHERWISE, POLICED, HOSTED],
    "named ports": [BY_NAME, BY_NAME_OTHERWISE, TWO_HOSTS, BY_NAME],
    "floating": [FLOATING, FLOATING_LOST, POLICED, FLOATING],
    "pools": [POOLED, POOLED_OTHERWISE, POLICED, POOLED],
    "logs": [LOGGED, LOGGED_OTHERWISE, TWO_HOSTS, LOGGED],
    "many": [TWO_HOSTS, MANY, MANY_FEWER, MANY, ONE_ENDPOINT],
}
