"""Small clouds with every match a rule can have, and packets aimed at the edges of what the rules say.

Everything follows from a number, by plain chance: what is common and what is rare is chosen here, and a
cloud that fails is made small by `minimise`, which knows resources.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, Literal

from msgspec.structs import replace

from hopwall_model.resources import (
    EndpointPort,
    EntityRule,
    GlobalNetworkPolicy,
    HostEndpoint,
    HostEndpointPort,
    HostEndpointSpec,
    Icmp,
    Metadata,
    Profile,
    ProfileSpec,
    Resource,
    Rule,
    WorkloadEndpoint,
)
from tests.proof.cloud import Cloud, Flow, State, network
from tests.proof.semantics import Semantics, number
from tests.support import states

HOSTS = ("h1", "h2")
NAMESPACES = ("default", "blue")
TIERS = ("default", "default", "t1", "t2", "kube-admin", "kube-baseline")
PROFILES = (("p1",), ("p2",), ("p1", "p2"), ("kns.blue", "p1"), ("p2", "p1"), ("absent",), ())
ADDRESSES = {
    4: tuple(f"10.65.0.{i}" for i in range(1, 8)),
    6: tuple(f"fd65::{i:x}" for i in range(1, 8)),
}
STRANGERS = {4: ("198.51.100.7", "192.0.2.127"), 6: ("2001:db8::7", "fd66::1")}
NETS = {
    4: (
        "10.65.0.0/24",
        "10.65.0.0/30",
        "10.65.0.4/30",
        "10.65.0.2/32",
        "10.65.0.3/32",
        "0.0.0.0/0",
        "10.0.0.0/8",
        "192.0.2.0/25",
        "128.0.0.0/1",
    ),
    6: (
        "fd65::/64",
        "fd65::/126",
        "fd65::2/128",
        "fd65::4/127",
        "::/0",
        "2001:db8::/32",
        "8000::/1",
    ),
}
SELECTORS = (
    "all()",
    "a == '1'",
    "a != '1'",
    "has(b)",
    "!has(b)",
    "a in {'1', '2'} && !has(b)",
    "a not in {'1'} || b == '1'",
    "b contains '1'",
    "a starts with '1'",
    "a ends with '2'",
    "zone == 'x'",
    "!(a == '1' || b == '2')",
)
#: For the policies themselves: more of those that mean many.
SUBJECTS = ("", "all()", "all()", "!has(c)", "has(zone)", *SELECTORS)
NAMESPACE_SELECTORS = ("all()", "global()", "env == 'x'", "env != 'x'", "has(env)", "!has(env)")
PORTS: tuple[tuple[int | str, ...], ...] = (
    (80,),
    (80, "81:90"),
    ("1000:2000",),
    ("1:65535",),
    (0,),
    (65535, 53),
    ("0:79", 443),
    tuple(range(2000, 2040, 2)),
    tuple(f"{first}:{first + 3}" for first in range(3000, 3100, 10)),
    (*range(4000, 4028, 2), "5000:5001"),
    (*range(4000, 4026, 2), "5000:5001"),
    tuple(range(7000, 7100, 2)),
    tuple(f"{first}:{first + 1}" for first in range(8000, 8200, 4)),
)
NAMED_PORTS: tuple[tuple[int | str, ...], ...] = (
    ("http",),
    ("dns",),
    ("http", 443),
    ("dns", "http", "1000:2000"),
    ("nobody-has-it",),
    ("http", *range(2000, 2040, 2)),
)
PROTOCOLS: tuple[int | str, ...] = ("TCP", "TCP", "TCP", "UDP", "UDP", "SCTP", "UDPLite", 6, 17)
NUMBERS = (6, 6, 6, 17, 17, 132, 136, 1, 58, 47, 89, 0)
ICMP_TYPES = (0, 8, 13, 128, 129, 3)
STATES: tuple[State, ...] = (*("NEW",) * 30, "ESTABLISHED", "RELATED", "INVALID")


Fields = dict[str, Any]


#: What most rules of a cloud are about: where all is mixed, few packets meet the rare things.
Focus = Literal["all", "ports", "nets", "tiers"]
_FOCI: tuple[Focus, ...] = ("all", "all", "all", "ports", "nets", "tiers")


def _entity(chance: Random, version: int | None, focus: Focus, *, ports: bool) -> Fields:
    """Make one side of a rule: mostly one field or none, now and then two or three."""
    nets = [net for v in ((version,) if version else (4, 6)) for net in NETS[v]]
    choices: dict[str, Callable[[], Any]] = {
        "nets": lambda: tuple(chance.sample(nets, chance.choice((1, 1, 2, 3)))),
        "not_nets": lambda: tuple(chance.sample(nets, chance.choice((1, 1, 2)))),
        "selector": lambda: chance.choice(SELECTORS),
        "not_selector": lambda: chance.choice(SELECTORS),
        "namespace_selector": lambda: chance.choice(NAMESPACE_SELECTORS),
    }
    if ports:
        choices |= {
            "ports": lambda: chance.choice((*PORTS, *NAMED_PORTS)),
            "not_ports": lambda: chance.choice((*PORTS, *NAMED_PORTS)),
        }
    names: Sequence[str] = chance.sample(sorted(choices), chance.choice((0, 0, 0, 1, 1, 1, 2, 3)))
    if focus == "ports" and ports:
        names = chance.choice(((), ("ports",), ("ports",), ("not_ports",), ("ports", "not_ports")))
    elif focus == "nets":
        names = chance.choice(((), ("nets",), ("not_nets",), ("nets", "not_nets")))
    elif focus == "tiers":
        names = names[: chance.choice((0, 0, 1))]
    return {name: choices[name]() for name in names}


_ACTIONS = ("Allow",) * 6 + ("Deny",) * 3 + ("Log", "Log")
_MATCHES = ("any", "any", "ports", "ports", "ports", "icmp", "icmp", "not", "number")
_ICMPS = (
    *(Icmp(type=kind) for kind in (0, 8, 128, 254)),
    *(Icmp(type=kind, code=code) for kind in (8, 128, 3) for code in (0, 1, 255)),
)


def _rule(chance: Random, focus: Focus, *, passes: bool) -> Rule:
    """Make a rule with any match."""
    more: Fields = {}
    version = chance.choice((None, None, None, 4, 6))
    kind = chance.choice(_MATCHES if focus in ("all", "tiers") else ("any", "ports"))
    if focus == "ports":
        kind = "ports"
    if kind == "ports":
        more["protocol"] = chance.choice(PROTOCOLS)
    elif kind == "icmp":
        name = chance.choice(("ICMP", "ICMPv6"))
        version = {"ICMP": 4, "ICMPv6": 6}[name] if version else None
        more["protocol"] = name
        field = chance.choice(("icmp", "not_icmp", ""))
        if field:
            more[field] = chance.choice(_ICMPS)
    elif kind == "not":
        more["not_protocol"] = chance.choice(("TCP", "UDP", "ICMP", "ICMPv6", 47, 0))
    elif kind == "number":
        more["protocol"] = chance.choice((47, 89, 1, 58, 255, 0, 0))
        if more["protocol"] in (1, 58):
            version = None
    return states.rule(
        chance.choice((*_ACTIONS, *(("Pass",) * (8 if focus == "tiers" else 2) if passes else ()))),
        ip_version=version,
        source=_entity(chance, version, focus, ports=kind == "ports"),
        destination=_entity(chance, version, focus, ports=kind == "ports"),
        **more,
    )


def _rule_list(chance: Random, focus: Focus, most: int, *, passes: bool = True) -> tuple[Rule, ...]:
    return tuple(_rule(chance, focus, passes=passes) for _ in range(chance.randint(0, most)))


def _labels(chance: Random) -> dict[str, str]:
    return {name: chance.choice(("1", "2", "12")) for name in "ab" if chance.random() < 0.6}


_NAMED = (
    EndpointPort(name="http", port=80, protocol="TCP"),
    EndpointPort(name="http", port=8080, protocol="TCP"),
    EndpointPort(name="dns", port=53, protocol="UDP"),
    EndpointPort(name="dns", port=53, protocol="TCP"),
)


def _endpoint(chance: Random, index: int) -> WorkloadEndpoint:
    """Make an endpoint with addresses of its own; now and then it claims another's too."""
    addresses = [f"{ADDRESSES[4][index]}/32", f"{ADDRESSES[6][index]}/128"]
    if chance.random() < 0.2:
        addresses.append(f"{chance.choice(ADDRESSES[4])}/32")
    extra = ("10.66.0.0/16", "fd66::/16") if chance.random() < 0.2 else ()
    return states.endpoint(
        f"e{index}",
        chance.choice(HOSTS),
        *dict.fromkeys(addresses),
        labels=_labels(chance),
        profiles=chance.choice(PROFILES),
        namespace=chance.choice(NAMESPACES),
        created=chance.choice((None, "2020", "2021")),
        allow_spoofed_source_prefixes=extra,
        ports=tuple(chance.sample(_NAMED, chance.randint(0, 2))),
    )


def _policy(chance: Random, focus: Focus, index: int) -> Resource:
    """Make a policy of either kind; there are few orders, so that ties are many."""
    spec: Fields = {
        "tier": chance.choice(TIERS) if chance.random() > 0.02 else "absent",
        "order": chance.choice((None, 1.0, 1.0, 2.0)),
        "types": chance.choice(((), ("Ingress",), ("Egress",), ("Ingress", "Egress"))),
        "egress": _rule_list(chance, focus, 4),
    }
    ingress = _rule_list(chance, focus, 4)
    subject = chance.choice(SUBJECTS) if focus == "all" else "all()"
    name = f"p{9 - index}"
    if chance.random() < 0.5:
        return states.np(name, subject, *ingress, namespace=chance.choice(NAMESPACES), **spec)
    spec["namespace_selector"] = chance.choice(("", "", "", "all()", "env == 'x'"))
    return states.gnp(name, subject, *ingress, **spec)


def _profile(chance: Random, name: str) -> Profile:
    last = (Rule(action="Allow"),)
    spec = ProfileSpec(
        ingress=(*_rule_list(chance, "all", 2, passes=False), *chance.choice(((), last))),
        egress=(*_rule_list(chance, "all", 2, passes=False), *chance.choice(((), last))),
        labels_to_apply={**_labels(chance), "zone": chance.choice("xy")},
    )
    return Profile(metadata=Metadata(name=name), spec=spec)


def _surroundings(chance: Random) -> Iterator[Resource]:
    """Make tiers, profiles and network sets; some of what others name is absent."""
    for name, orders in (("t1", (1.0, 2e6, None)), ("t2", (1.0, 2.0, None))):
        yield states.tier(name, chance.choice(orders), chance.choice(("Deny", "Pass")))
    for name in ("p1", "p2"):
        if chance.random() < 0.95:
            yield _profile(chance, name)
    for namespace in NAMESPACES:
        if chance.random() < 0.7:
            yield states.profile(f"kns.{namespace}", {"pcns.env": chance.choice("xy")})
    every = (*NETS[4], *NETS[6])
    for index in range(chance.randint(0, 2)):
        nets = chance.sample(every, chance.randint(0, 3))
        if chance.random() < 0.5:
            yield states.global_set(f"s{index}", _labels(chance), *nets)
        else:
            where = chance.choice(NAMESPACES)
            yield states.network_set(f"s{index}", _labels(chance), *nets, namespace=where)


def cloud_of(chance: Random) -> Cloud:
    """Make a cloud of two hosts."""
    focus = chance.choice(_FOCI)
    n_policies = chance.randint(1, 3 if focus in ("ports", "nets") else 7)
    return (
        *_surroundings(chance),
        *(_policy(chance, focus, index) for index in range(n_policies)),
        *(_endpoint(chance, index) for index in range(chance.randint(2, 6))),
    )


def _host_endpoint(chance: Random, index: int) -> HostEndpoint:
    """Make a host endpoint of h1: of one interface, of an address, or of all that is left."""
    named = chance.choice(("eth0", "eth0", "eth1", "*", ""))
    expected = chance.choice((("172.18.0.1",), ("172.19.0.1",), ("172.20.0.1", "fd65::7")))
    return HostEndpoint(
        metadata=Metadata(name=f"he{3 - index}", labels=_labels(chance)),
        spec=HostEndpointSpec(
            node="h1",
            interface_name=named,
            expected_ips=expected if not named or chance.random() < 0.5 else (),
            profiles=chance.choice(PROFILES),
            ports=(HostEndpointPort(name="http", port=81),) if chance.random() < 0.3 else (),
        ),
    )


def _host_policy(chance: Random, index: int) -> Resource:
    """Make a policy that host endpoints may be meant by, at any of the places a packet passes."""
    made = _policy(chance, "all", index)
    if not isinstance(made, GlobalNetworkPolicy):
        return made
    place = chance.choice(("", "forward", "forward", "pre_dnat", "do_not_track"))
    spec = replace(
        made.spec,
        apply_on_forward=bool(place),
        pre_dnat=place == "pre_dnat",
        do_not_track=place == "do_not_track",
    )
    if place == "pre_dnat":
        spec = replace(spec, egress=(), types=("Ingress",))
    return replace(made, spec=spec)


def host_cloud_of(chance: Random) -> Cloud:
    """Make a cloud with host endpoints on h1, and policies for what it sends, receives and forwards."""
    return (
        *_surroundings(chance),
        *(_host_policy(chance, index) for index in range(chance.randint(1, 7))),
        *(_host_endpoint(chance, index) for index in range(chance.randint(1, 3))),
        *(_endpoint(chance, index) for index in range(chance.randint(2, 4))),
    )


# ---------------------------------------------------------------- flows


def flows_in(semantics: Semantics, chance: Random, n: int) -> list[Flow]:
    """Return packets for the cloud, most of them aimed at one of its rules.

    Most are chosen to be decided by a rule at one end: what no rule is about is all alike.
    """
    resources = semantics.resources
    workloads = [r for r in resources if isinstance(r, WorkloadEndpoint)]
    known = list(_rules_of(resources))
    found = []
    for _ in range(n):
        flow = _flow(workloads, known, chance)
        for _ in range(chance.choice((0, 4, 8))):
            judgement = semantics.judge(flow)
            decided = [end.by for end in (judgement.egress, judgement.ingress) if end]
            if any("/" in by for by in decided):
                break
            flow = _flow(workloads, known, chance)
        found.append(flow)
    return found


def _rules_of(resources: Iterable[Resource]) -> Iterator[Rule]:
    for resource in resources:
        spec = resource.spec
        if isinstance(resource, Profile) or hasattr(spec, "egress"):
            yield from spec.ingress  # type: ignore[union-attr]
            yield from spec.egress  # type: ignore[union-attr]


_ANY_RULE = Rule(action="Allow")


def _flow(workloads: list[WorkloadEndpoint], known: list[Rule], chance: Random) -> Flow:
    rule = chance.choice(known) if known and chance.random() < 0.85 else _ANY_RULE
    version = rule.ip_version or _version_of(rule) or chance.choice((4, 4, 6))
    protocol = number(rule.protocol) if rule.protocol is not None else chance.choice(NUMBERS)
    if rule.not_protocol is not None and chance.random() < 0.3:
        protocol = number(rule.not_protocol)
    if rule.protocol is not None and chance.random() < 0.1:
        protocol = chance.choice(NUMBERS)
    if protocol == 0:
        version = 4  # in IPv6 it is no protocol, but a header before others
    icmp_type = icmp_code = source_port = destination_port = 0
    if protocol in (1, 58):
        icmp = rule.icmp or rule.not_icmp or Icmp()
        icmp_type = _near(icmp.type, chance, ICMP_TYPES, 255)
        icmp_code = _near(icmp.code, chance, (0, 0, 1), 255)
    elif protocol in (6, 17, 132, 136):
        source_port = _port(rule.source, chance)
        destination_port = _port(rule.destination, chance)
    sender = ""
    if chance.random() < 0.04:
        one = chance.choice(workloads)
        sender = f"{one.metadata.namespace}/{one.metadata.name}"
    return Flow(
        source=_address(rule.source, version, workloads, chance),
        destination=_address(rule.destination, version, workloads, chance),
        protocol=protocol,
        source_port=source_port,
        destination_port=destination_port,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        state=chance.choice(STATES),
        sender=sender,
    )


def _version_of(rule: Rule) -> int | None:
    if rule.protocol is None:
        return None
    return {1: 4, 58: 6}.get(number(rule.protocol))


def _near(wanted: int | None, chance: Random, others: Sequence[int], most: int) -> int:
    """Return what is wanted, mostly; else its neighbour, or another."""
    if wanted is None or chance.random() < 0.2:
        return chance.choice(others)
    return min(most, max(0, wanted + chance.choice((0, 0, 0, 0, 1, -1))))


def _port(side: EntityRule, chance: Random) -> int:
    """Return a port at an edge of those the rule names."""
    given = side.ports or side.not_ports
    if not given or chance.random() < 0.1:
        return chance.choice((80, 443, 53, 8080, 1024, 65535, 0))
    first, _, last = str(chance.choice(given)).partition(":")
    if not first.isdigit():
        return chance.choice((80, 8080, 53, 81))
    edge = int(chance.choice((first, last or first)))
    return min(65535, max(0, edge + chance.choice((0, 0, 0, 1, -1))))


def _address(
    side: EntityRule, version: int, workloads: list[WorkloadEndpoint], chance: Random
) -> str:
    """Return a workload's address, mostly; else one at the edge of a net, or a stranger's."""
    nets = [n for n in (side.nets or side.not_nets) if (":" in n) == (version == 6)]
    dice = chance.random()
    if nets and dice < 0.25:
        net = network(chance.choice(nets))
        edge = int(net[0]) - 1, int(net[0]), int(net[-1]), int(net[-1]) + 1
        chosen = chance.choice([e for e in edge if 0 < e < 2**net.max_prefixlen - 1] or [1])
        return str(net[0].__class__(chosen))
    if dice < 0.88:
        owned = [
            net.partition("/")[0]
            for one in workloads
            for net in one.spec.ip_networks
            if (":" in net) == (version == 6)
        ]
        if owned:
            return chance.choice(owned)
    return chance.choice((*STRANGERS[version], *ADDRESSES[version]))
