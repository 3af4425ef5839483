"""The dumb recompute: from all resources straight to what one host must enforce.

Written against the documents, not against the nodes: no index, no increments, every question asked of
everyone. Slow and plain on purpose.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import cast

from hopwall_model import selectors
from hopwall_model.names import digest
from hopwall_model.resource_names import RESERVED_TIERS
from hopwall_model.resources import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPPool,
    Key,
    LiveMigration,
    NetworkPolicy,
    NetworkSet,
    Node,
    NodeBgp,
    NodeSpec,
    Profile,
    Resource,
    Rule,
    Tier,
    WorkloadEndpoint,
    key_of,
)
from hopwall_model.selectors import All, And, Has, In, Selector
from hopwall_model.updates import (
    EndpointId,
    EndpointSet,
    Entity,
    HostEndpointId,
    HostEndpointSet,
    Lost,
    Nat,
    PolicyId,
    ResolvedRule,
    SetId,
    TierPolicies,
    Verdict,
)
from tests.support.fold import HostState
from tests.support.oracle_bgp import BgpOracle
from tests.support.oracle_moves import Arrivals, MoveOracle, is_one_workload
from tests.support.oracle_values import (
    do_nothing_but_log,
    halves,
    net_set,
    number_of,
    port_ranges,
    single,
    types_of,
)

Resources = Mapping[Key, Resource]
Policy = NetworkPolicy | GlobalNetworkPolicy
AnyEndpoint = WorkloadEndpoint | HostEndpoint
INFINITY = float("inf")
NAMESPACE = "projectcalico.org/namespace"


class Oracle:
    """Answers for one set of resources."""

    def __init__(
        self, resources: Resources, *, bgp: bool = False, arrivals: Arrivals | None = None
    ) -> None:
        values = list(resources.values())
        #: Absent where calc itself spreads the routes.
        self.bgp = BgpOracle(values, self.living) if bgp else None
        self.endpoints = [r for r in values if isinstance(r, WorkloadEndpoint)]
        self.sets = [r for r in values if isinstance(r, NetworkSet | GlobalNetworkSet)]
        self.policies = [r for r in values if isinstance(r, NetworkPolicy | GlobalNetworkPolicy)]
        self.profiles = {r.metadata.name: r for r in values if isinstance(r, Profile)}
        self.tiers = {r.metadata.name: r for r in values if isinstance(r, Tier)}
        self.nodes = {r.metadata.name: r for r in values if isinstance(r, Node)}
        self.host_endpoints = [r for r in values if isinstance(r, HostEndpoint)]
        self.both: list[AnyEndpoint] = [*self.endpoints, *self.host_endpoints]
        self.pools = [r.spec for r in values if isinstance(r, IPPool)]
        self.moves = MoveOracle(
            self.endpoints,
            [r for r in values if isinstance(r, LiveMigration)],
            {f"{e.metadata.namespace}/{e.metadata.name}": self.labels(e) for e in self.endpoints},
            arrivals or {},
        )

    def hosts(self) -> set[str]:
        """Return the hosts that are declared or used."""
        return {*self.nodes, *(endpoint.spec.node for endpoint in self.both)}

    def tierless(self) -> set[Key]:
        """Return the policies whose tier is not there."""
        return {key_of(p) for p in self.policies if self.tier(p.spec.tier) is None}

    def fault(self, tier: str) -> str:
        """Return what is said of a policy of this tier; a profile has none."""
        if not tier or self.tier(tier) is not None:
            return ""
        return (
            f"Its tier {tier!r} does not exist, so it denies everything; "
            "declare the tier, or name another."
        )

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
        for host_endpoint in self.host_endpoints:
            if host_endpoint.spec.node == host:
                its = self.host_endpoint(host_endpoint)
                state.host_endpoints[its.id] = its
                named.update(its.profiles)
                for tier in (*its.tiers, *its.forward, *its.pre_dnat, *its.untracked):
                    named.update(tier.ingress, tier.egress)
        for policy_id in named:
            ingress, egress = self.rules(policy_id, state)
            of = self.tier_name(policy_id)
            absent = policy_id.startswith("profile/") and policy_id[8:] not in self.profiles
            state.policies[policy_id] = (of, ingress, egress, self.fault(of), absent)
        self._spread(host, state)
        return state

    def _spread(self, host: str, state: HostState) -> None:
        """Note the pools, and how the host learns where others' addresses are."""
        if self.bgp is not None:
            state.bgp = self.bgp.of(host)
        if host not in self.hosts():
            return
        if self.pools:
            translated = (pool.cidr for pool in self.pools if pool.nat_outgoing)
            state.sets[SetId("pools")] = frozenset(pool.cidr for pool in self.pools)
            state.sets[SetId("nat-pools")] = frozenset(translated)
        if self.bgp is None:
            state.routes = {other: self.route(other) for other in self.hosts() - {host}}

    # ------------------------------------------------------------ endpoints

    def owned(self, endpoint: WorkloadEndpoint) -> tuple[str, ...]:
        """Return the addresses that the endpoint's claim wins, or its peer's."""
        return tuple(a for a in endpoint.spec.ip_networks if self.owns(endpoint, a))

    def owns(self, endpoint: WorkloadEndpoint, address: str) -> bool:
        """Tell whether the address is the endpoint's."""
        return any(owner is endpoint for owner in self.moves.owners(address))

    def lost(self, endpoint: WorkloadEndpoint) -> tuple[Lost, ...]:
        """Return the addresses of the endpoint that others own, and who."""
        floating = [single(nat.external_ip) for nat in endpoint.spec.ip_nats]
        declared = dict.fromkeys((*endpoint.spec.ip_networks, *floating))
        owners = ((a, self.moves.owners(a)[0]) for a in declared if not self.owns(endpoint, a))
        return tuple(
            Lost(address, EndpointId(f"{owner.metadata.namespace}/{owner.metadata.name}"))
            for address, owner in owners
            if not is_one_workload(endpoint, owner)
        )

    def nats(self, endpoint: WorkloadEndpoint) -> tuple[Nat, ...]:
        """Return the floating addresses of which the endpoint owns both sides."""
        given = [
            Nat(single(nat.external_ip), single(nat.internal_ip)) for nat in endpoint.spec.ip_nats
        ]
        return tuple(
            nat
            for nat in given
            if self.owns(endpoint, nat.external) and self.owns(endpoint, nat.internal)
        )

    def addresses(self, endpoint: AnyEndpoint) -> tuple[str, ...]:
        """Return the addresses that selecting the endpoint means."""
        if isinstance(endpoint, WorkloadEndpoint):
            return self.owned(endpoint)
        return tuple(single(address) for address in endpoint.spec.expected_ips)

    def labels(self, item: AnyEndpoint | NetworkSet | GlobalNetworkSet) -> dict[str, str]:
        """Return the labels by which the item is selected."""
        labels: dict[str, str] = {}
        if isinstance(item, WorkloadEndpoint | HostEndpoint):
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

    def applies(self, policy: Policy, endpoint: AnyEndpoint) -> bool:
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
        spec = endpoint.spec
        return EndpointSet(
            id=EndpointId(f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"),
            interface=spec.interface_name,
            addresses=self.owned(endpoint),
            extra_sources=spec.allow_spoofed_source_prefixes,
            mac=spec.mac,
            nats=self.nats(endpoint),
            lost=self.lost(endpoint),
            tiers=self.lists(endpoint, lambda p: not (_untracked(p) or _pre_dnat(p))),
            profiles=tuple(PolicyId(f"profile/{name}") for name in spec.profiles),
            move=self.moves.move(endpoint, self.all_owned(endpoint)),
        )

    def host_endpoint(self, endpoint: HostEndpoint) -> HostEndpointSet:
        """Return the host endpoint as its host sees it."""
        spec = endpoint.spec
        untracked = self.lists(endpoint, _untracked, open_ended=True)
        return HostEndpointSet(
            id=HostEndpointId(endpoint.metadata.name),
            interface=spec.interface_name,
            expected_ips=self.addresses(endpoint),
            tiers=self.lists(endpoint, lambda p: not (_untracked(p) or _pre_dnat(p))),
            profiles=tuple(PolicyId(f"profile/{name}") for name in spec.profiles),
            forward=self.lists(
                endpoint, lambda p: _on_forward(p) and not _untracked(p) and not _pre_dnat(p)
            ),
            pre_dnat=self.lists(endpoint, _pre_dnat, open_ended=True),
            untracked=() if spec.interface_name == "*" else untracked,
            force=endpoint.metadata.annotations.get("hopwall.io/force") == "true",
        )

    def lists(
        self, endpoint: AnyEndpoint, wanted: Callable[[Policy], bool], *, open_ended: bool = False
    ) -> tuple[TierPolicies, ...]:
        """Return the wanted ones of the policies that select the endpoint, by tier."""
        applying = [p for p in self.policies if wanted(p) and self.applies(p, endpoint)]
        tiers: list[tuple[float, TierPolicies]] = []
        for name in {policy.spec.tier for policy in applying}:
            known = self.tier(name)
            order, action = known or (-INFINITY, "Deny")
            policies = sorted(
                (policy for policy in applying if policy.spec.tier == name), key=_policy_order
            )
            inward = [p for p in policies if "Ingress" in types_of(p)]
            outward = [p for p in policies if "Egress" in types_of(p)]
            goes_on = action == "Pass" or open_ended
            logs_in = known is not None and do_nothing_but_log([p.spec.ingress for p in inward])
            logs_out = known is not None and do_nothing_but_log([p.spec.egress for p in outward])
            tier = TierPolicies(
                name=name,
                ingress_default="pass" if goes_on or logs_in else "deny",
                egress_default="pass" if goes_on or logs_out else "deny",
                ingress=tuple(_policy_id(p) for p in inward),
                egress=tuple(_policy_id(p) for p in outward),
            )
            tiers.append((order, tier))
        tiers.sort(key=lambda entry: (entry[0], entry[1].name))
        return tuple(tier for _, tier in tiers)

    def tier_name(self, policy_id: PolicyId) -> str:
        """Return the name of a policy's tier, there or not; "" for a profile."""
        return next((p.spec.tier for p in self.policies if _policy_id(p) == policy_id), "")

    # ------------------------------------------------------------ rules and sets

    def rules(
        self, policy_id: PolicyId, state: HostState
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
                self.rule(f"{policy_id}/i{index}", namespace, rule, state)
                for index, rule in enumerate(found.spec.ingress)
            ),
            tuple(
                self.rule(f"{policy_id}/e{index}", namespace, rule, state)
                for index, rule in enumerate(found.spec.egress)
            ),
        )

    def rule(self, rule_id: str, namespace: str, rule: Rule, state: HostState) -> ResolvedRule:
        """Return one rule as rendered."""
        lower = {"Allow": "allow", "Deny": "deny", "Pass": "pass", "Log": "log"}
        actions = cast(dict[str, Verdict], lower)
        return ResolvedRule(
            id=rule_id,
            action=actions[rule.action],
            ip_version=rule.ip_version,
            protocol=number_of(rule.protocol),
            not_protocol=number_of(rule.not_protocol),
            icmp_type=rule.icmp.type if rule.icmp else None,
            icmp_code=rule.icmp.code if rule.icmp else None,
            not_icmp_type=rule.not_icmp.type if rule.not_icmp else None,
            not_icmp_code=rule.not_icmp.code if rule.not_icmp else None,
            source=self.entity(namespace, rule.source, number_of(rule.protocol), state),
            destination=self.entity(namespace, rule.destination, number_of(rule.protocol), state),
        )

    def entity(
        self, namespace: str, given: EntityRule, protocol: int | None, state: HostState
    ) -> Entity:
        """Return one side of a rule as rendered; fill in the sets it names."""
        sets = state.sets
        selector: Selector | None = None
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
                ids.append(net_set(nets, sets))
        return Entity(
            net=given.nets[0] if len(set(given.nets)) == 1 else None,
            not_net=given.not_nets[0] if len(set(given.not_nets)) == 1 else None,
            sets=tuple(positive),
            not_sets=tuple(negative),
            ports=port_ranges(given.ports),
            not_ports=port_ranges(given.not_ports),
            port_sets=self.port_sets(given.ports, protocol, selector, state),
            not_port_sets=self.port_sets(given.not_ports, protocol, selector, state),
        )

    def port_sets(
        self,
        ports: Iterable[int | str],
        protocol: int | None,
        selector: Selector | None,
        state: HostState,
    ) -> tuple[SetId, ...]:
        """Note who, of those whom the selector means, has ports of these names."""
        names = list(dict.fromkeys(p for p in ports if isinstance(p, str) and ":" not in p))
        whose = selectors.selector_id(selector) if selector is not None else ""
        ids = []
        for name in names:
            assert protocol is not None
            members: set[str] = set()
            for endpoint in self.both:
                if selector is not None and not selector.matches(self.labels(endpoint)):
                    continue
                for port in endpoint.spec.ports:
                    if port.name == name and number_of(port.protocol) == protocol:
                        bare = [a.split("/")[0] for a in self.addresses(endpoint)]
                        members.update(f"{a},{protocol}:{port.port}" for a in bare)
            ids.append(SetId("np:" + digest(f"{whose}\n{protocol}\n{name}", 24)))
            state.port_sets[ids[-1]] = frozenset(members)
        return tuple(ids)

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
        for endpoint in self.both:
            if selector.matches(self.labels(endpoint)):
                members.update(self.addresses(endpoint))
        for network_set in self.sets:
            if selector.matches(self.labels(network_set)):
                members.update(halves(network_set.spec.nets))
        set_id = SetId(selectors.selector_id(selector))
        sets[set_id] = frozenset(members)
        return set_id

    # ------------------------------------------------------------ routes

    def route(self, host: str) -> tuple[str, str, frozenset[str]]:
        """Return the gateways of a host and the addresses that live on it."""
        spec = self.nodes[host].spec if host in self.nodes else NodeSpec()
        bgp = spec.bgp or NodeBgp()
        given = [bgp.ipv4_address, bgp.ipv6_address]
        for type_ in ("CalicoNodeIP", "InternalIP"):
            given += [a.address for a in spec.addresses if a.type == type_]
        given = [address.split("/")[0] for address in given if address]
        v4 = [address for address in given if "." in address]
        v6 = [address for address in given if ":" in address]
        return (v4[0] if v4 else "", v6[0] if v6 else "", frozenset(self.attracted(host)))

    def living(self, host: str) -> list[str]:
        """Return the addresses that endpoints on the host own, floating ones too."""
        living = [e for e in self.endpoints if e.spec.node == host]
        return [address for e in living for address in self.all_owned(e)]

    def all_owned(self, endpoint: WorkloadEndpoint) -> list[str]:
        """Return the addresses an endpoint owns, floating ones too."""
        return [*self.owned(endpoint), *(nat.external for nat in self.nats(endpoint))]

    def attracted(self, host: str) -> list[str]:
        """Return those of the living that are not at the other end of a migration now."""
        found = []
        for endpoint in self.endpoints:
            owned = self.all_owned(endpoint) if endpoint.spec.node == host else []
            move = self.moves.move(endpoint, owned)
            if move is not None and (move.role == "source") == move.switched:
                owned = [address for address in owned if address not in move.addresses]
            found += owned
        return found


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


def _untracked(policy: Policy) -> bool:
    return isinstance(policy, GlobalNetworkPolicy) and policy.spec.do_not_track


def _pre_dnat(policy: Policy) -> bool:
    return isinstance(policy, GlobalNetworkPolicy) and policy.spec.pre_dnat


def _on_forward(policy: Policy) -> bool:
    return isinstance(policy, GlobalNetworkPolicy) and policy.spec.apply_on_forward
