"""The dumb recompute: from all resources straight to what one host must enforce.

Written against the documents, not against the nodes: no index, no increments, every question asked of
everyone. Slow and plain on purpose.
"""

from collections.abc import Iterable, Mapping

from hopwall_model import protocols, selectors
from hopwall_model.names import digest
from hopwall_model.resource_names import RESERVED_TIERS
from hopwall_model.resources import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    Key,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    Resource,
    Rule,
    Tier,
    WorkloadEndpoint,
)
from hopwall_model.selectors import All, And, Has, In, Selector
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    PolicyId,
    PortRange,
    ResolvedRule,
    SetId,
    TierPolicies,
    Verdict,
)
from tests.support.fold import HostState

Resources = Mapping[Key, Resource]
Policy = NetworkPolicy | GlobalNetworkPolicy
INFINITY = float("inf")
NAMESPACE = "projectcalico.org/namespace"


class Oracle:
    """Answers for one set of resources."""

    def __init__(self, resources: Resources, *, routes: bool = True) -> None:
        values = list(resources.values())
        self.with_routes = routes
        self.endpoints = [r for r in values if isinstance(r, WorkloadEndpoint)]
        self.sets = [r for r in values if isinstance(r, NetworkSet | GlobalNetworkSet)]
        self.policies = [r for r in values if isinstance(r, NetworkPolicy | GlobalNetworkPolicy)]
        self.profiles = {r.metadata.name: r for r in values if isinstance(r, Profile)}
        self.tiers = {r.metadata.name: r for r in values if isinstance(r, Tier)}
        self.nodes = {r.metadata.name: r for r in values if isinstance(r, Node)}
        self.claimants: dict[str, list[WorkloadEndpoint]] = {}
        for endpoint in self.endpoints:
            for address in endpoint.spec.ip_networks:
                self.claimants.setdefault(address, []).append(endpoint)

    def hosts(self) -> set[str]:
        """Return the hosts that are declared or used."""
        return {*self.nodes, *(endpoint.spec.node for endpoint in self.endpoints)}

    def state(self, host: str) -> HostState:
        """Return what the host must enforce."""
        state = HostState()
        named: set[PolicyId] = set()
        for endpoint in self.endpoints:
            if endpoint.spec.node == host:
                value = self.endpoint(endpoint)
                state.endpoints[value.id] = value
                named.update(value.profiles)
                for tier in value.tiers:
                    named.update(tier.ingress, tier.egress)
        for policy_id in named:
            state.policies[policy_id] = self.rules(policy_id, state.sets)
        if self.with_routes and host in self.hosts():
            state.routes = {other: self.route(other) for other in self.hosts() - {host}}
        return state

    # ------------------------------------------------------------ endpoints

    def owned(self, endpoint: WorkloadEndpoint) -> tuple[str, ...]:
        """Return the addresses that no older endpoint claims."""

        def age(e: WorkloadEndpoint) -> tuple[str, str, str]:
            meta = e.metadata
            return (meta.creation_timestamp or "~", meta.namespace or "", meta.name)

        return tuple(
            address
            for address in endpoint.spec.ip_networks
            if all(age(endpoint) <= age(other) for other in self.claimants[address])
        )

    def labels(self, item: WorkloadEndpoint | NetworkSet | GlobalNetworkSet) -> dict[str, str]:
        """Return the labels by which the item is selected."""
        labels: dict[str, str] = {}
        if isinstance(item, WorkloadEndpoint):
            for name in item.spec.profiles:
                profile = self.profiles.get(name)
                for label, value in (profile.spec.labels_to_apply if profile else {}).items():
                    labels.setdefault(label, value)
        labels.update(item.metadata.labels)
        labels = {k: v for k, v in labels.items() if k != NAMESPACE and not k.startswith("pcns.")}
        namespace = item.metadata.namespace
        if namespace:
            of_namespace = self.profiles.get(f"kns.{namespace}")
            for label, value in (of_namespace.spec.labels_to_apply if of_namespace else {}).items():
                if label.startswith("pcns."):
                    labels[label] = value
            labels[NAMESPACE] = namespace
            labels["pcns.projectcalico.org/name"] = namespace
        if isinstance(item, WorkloadEndpoint) and item.spec.orchestrator:
            labels["projectcalico.org/orchestrator"] = item.spec.orchestrator
        return labels

    def applies(self, policy: Policy, endpoint: WorkloadEndpoint) -> bool:
        """Tell whether the policy selects the endpoint."""
        labels = self.labels(endpoint)
        if isinstance(policy, NetworkPolicy):
            if policy.metadata.namespace != endpoint.metadata.namespace:
                return False
        elif policy.spec.namespace_selector and not self.namespaces(
            policy.spec.namespace_selector
        ).matches(labels):
            return False
        return selectors.parse(policy.spec.selector).matches(labels)

    def tier(self, name: str) -> tuple[float, str] | None:
        """Return a tier's order and default action; None if there is no such tier."""
        if name in RESERVED_TIERS:
            return RESERVED_TIERS[name]
        tier = self.tiers.get(name)
        if tier is None:
            return None
        order = INFINITY if tier.spec.order is None else tier.spec.order
        return order, tier.spec.default_action

    def endpoint(self, endpoint: WorkloadEndpoint) -> EndpointSet:
        """Return the endpoint as its host sees it."""
        applying = [policy for policy in self.policies if self.applies(policy, endpoint)]
        tiers: list[tuple[float, TierPolicies]] = []
        for name in {policy.spec.tier for policy in applying}:
            order, action = self.tier(name) or (-INFINITY, "Deny")
            policies = sorted(
                (policy for policy in applying if policy.spec.tier == name), key=_policy_order
            )
            tier = TierPolicies(
                name=name,
                ingress_default="pass" if action == "Pass" else "deny",
                egress_default="pass" if action == "Pass" else "deny",
                ingress=tuple(_policy_id(p) for p in policies if "Ingress" in _types(p)),
                egress=tuple(_policy_id(p) for p in policies if "Egress" in _types(p)),
            )
            tiers.append((order, tier))
        tiers.sort(key=lambda entry: (entry[0], entry[1].name))
        spec = endpoint.spec
        return EndpointSet(
            id=EndpointId(f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"),
            interface=spec.interface_name,
            addresses=self.owned(endpoint),
            extra_sources=spec.allow_spoofed_source_prefixes,
            mac=spec.mac,
            tiers=tuple(tier for _, tier in tiers),
            profiles=tuple(PolicyId(f"profile/{name}") for name in spec.profiles),
        )

    # ------------------------------------------------------------ rules and sets

    def rules(
        self, policy_id: PolicyId, sets: dict[SetId, frozenset[str]]
    ) -> tuple[tuple[ResolvedRule, ...], tuple[ResolvedRule, ...]]:
        """Return the policy's rules of both directions; fill in the sets they name."""
        closed = (
            (ResolvedRule(id=f"{policy_id}/i0", action="deny"),),
            (ResolvedRule(id=f"{policy_id}/e0", action="deny"),),
        )
        namespace = ""
        found: Policy | Profile | None
        if policy_id.startswith("profile/"):
            found = self.profiles.get(policy_id.removeprefix("profile/"))
        else:
            found = next((p for p in self.policies if _policy_id(p) == policy_id), None)
            if found is not None and self.tier(found.spec.tier) is None:
                return closed
        if found is None:
            return closed
        if isinstance(found, NetworkPolicy):
            namespace = found.metadata.namespace or ""
        return (
            tuple(
                self.rule(f"{policy_id}/i{index}", namespace, rule, sets)
                for index, rule in enumerate(found.spec.ingress)
            ),
            tuple(
                self.rule(f"{policy_id}/e{index}", namespace, rule, sets)
                for index, rule in enumerate(found.spec.egress)
            ),
        )

    def rule(
        self, rule_id: str, namespace: str, rule: Rule, sets: dict[SetId, frozenset[str]]
    ) -> ResolvedRule:
        """Return one rule as rendered."""
        actions: dict[str, Verdict] = {
            "Allow": "allow",
            "Deny": "deny",
            "Pass": "pass",
            "Log": "log",
        }
        return ResolvedRule(
            id=rule_id,
            action=actions[rule.action],
            ip_version=rule.ip_version,
            protocol=_number(rule.protocol),
            not_protocol=_number(rule.not_protocol),
            icmp_type=rule.icmp.type if rule.icmp else None,
            icmp_code=rule.icmp.code if rule.icmp else None,
            not_icmp_type=rule.not_icmp.type if rule.not_icmp else None,
            not_icmp_code=rule.not_icmp.code if rule.not_icmp else None,
            source=self.entity(namespace, rule.source, sets),
            destination=self.entity(namespace, rule.destination, sets),
        )

    def entity(
        self, namespace: str, given: EntityRule, sets: dict[SetId, frozenset[str]]
    ) -> Entity:
        """Return one side of a rule as rendered."""
        positive: list[SetId] = []
        negative: list[SetId] = []
        place: Selector | None = None
        if given.namespace_selector:
            place = self.namespaces(given.namespace_selector)
        elif namespace and (given.selector or given.not_selector):
            place = In(NAMESPACE, frozenset([namespace]))
        if given.selector or place is not None:
            wanted = selectors.parse(given.selector)
            selector = wanted if place is None else _both(place, wanted)
            positive.append(self.selected(selector, sets))
        if given.not_selector:
            negative.append(self.selected(selectors.parse(given.not_selector), sets))
        for nets, ids in ((given.nets, positive), (given.not_nets, negative)):
            if len(set(nets)) > 1:
                ids.append(_net_set(nets, sets))
        return Entity(
            net=given.nets[0] if len(set(given.nets)) == 1 else None,
            not_net=given.not_nets[0] if len(set(given.not_nets)) == 1 else None,
            sets=tuple(positive),
            not_sets=tuple(negative),
            ports=_ports(given.ports),
            not_ports=_ports(given.not_ports),
        )

    @staticmethod
    def namespaces(text: str) -> Selector:
        """Return a namespace selector as one over what lives there."""

        def change(leaf: Selector) -> Selector:
            return Has(NAMESPACE) if isinstance(leaf, All) else leaf

        return selectors.map_conditions(
            selectors.prefix_labels(selectors.parse(text), "pcns."), change
        )

    def selected(self, selector: Selector, sets: dict[SetId, frozenset[str]]) -> SetId:
        """Note the addresses of everyone whom the selector means."""
        members: set[str] = set()
        for endpoint in self.endpoints:
            if selector.matches(self.labels(endpoint)):
                members.update(self.owned(endpoint))
        for network_set in self.sets:
            if selector.matches(self.labels(network_set)):
                members.update(_halves(network_set.spec.nets))
        set_id = SetId(selectors.selector_id(selector))
        sets[set_id] = frozenset(members)
        return set_id

    # ------------------------------------------------------------ routes

    def route(self, host: str) -> tuple[str, str, frozenset[str]]:
        """Return the gateways of a host and the addresses that live on it."""
        addresses = [a for e in self.endpoints if e.spec.node == host for a in self.owned(e)]
        node = self.nodes.get(host)
        given: list[str] = []
        if node is not None:
            if node.spec.bgp is not None:
                given += [node.spec.bgp.ipv4_address, node.spec.bgp.ipv6_address]
            for type_ in ("CalicoNodeIP", "InternalIP"):
                given += [a.address for a in node.spec.addresses if a.type == type_]
        given = [address.split("/")[0] for address in given if address]
        v4 = [address for address in given if "." in address]
        v6 = [address for address in given if ":" in address]
        return (v4[0] if v4 else "", v6[0] if v6 else "", frozenset(addresses))


def _both(place: Selector, wanted: Selector) -> Selector:
    parts = [
        part
        for selector in (place, wanted)
        for part in (selector.operands if isinstance(selector, And) else (selector,))
        if not isinstance(part, All)
    ]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _policy_id(policy: Policy) -> PolicyId:
    meta = policy.metadata
    if isinstance(policy, NetworkPolicy):
        return PolicyId(f"np/{meta.namespace}/{meta.name}")
    return PolicyId(f"gnp/{meta.name}")


def _policy_order(policy: Policy) -> tuple[float, str, str, str]:
    order = INFINITY if policy.spec.order is None else policy.spec.order
    return order, policy.metadata.name, policy.metadata.namespace or "", type(policy).__name__


def _types(policy: Policy) -> tuple[str, ...]:
    spec = policy.spec
    if spec.types:
        return spec.types
    if not spec.egress:
        return ("Ingress",)
    return ("Ingress", "Egress") if spec.ingress else ("Egress",)


def _number(protocol: int | str | None) -> int | None:
    return None if protocol is None else protocols.number_of(protocol)


def _halves(nets: Iterable[str]) -> Iterable[str]:
    for net in nets:
        if net == "0.0.0.0/0":
            yield from ("0.0.0.0/1", "128.0.0.0/1")
        elif net == "::/0":
            yield from ("::/1", "8000::/1")
        else:
            yield net


def _net_set(nets: Iterable[str], sets: dict[SetId, frozenset[str]]) -> SetId:
    distinct = sorted(set(nets))
    set_id = SetId("n:" + digest("\n".join(distinct), 24))
    sets[set_id] = frozenset(_halves(distinct))
    return set_id


def _ports(given: Iterable[int | str]) -> tuple[PortRange, ...]:
    numbers: set[int] = set()
    for port in given:
        first, _, last = str(port).partition(":")
        numbers.update(range(int(first), int(last or first) + 1))
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n for n in numbers if n + 1 not in numbers)
    return tuple(PortRange(first, last) for first, last in zip(starts, ends, strict=True))
