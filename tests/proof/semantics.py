"""The first judge: what the documents say becomes of a packet, asked of the resources themselves.

It knows no set, no chain, no class and no message: labels are compared, addresses are looked up, rules are
read one by one. It shares the parser of selectors with the product, and nothing else.

Source: Calico, "Network policy", "Global network policy", "Tier", "Profile" and "Selectors" of the resource
reference. In two places this product says more: a packet from an address that is not its endpoint's is
denied, and where all that applies to a direction in a tier only logs, the tier decides nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopwall_model import selectors
from hopwall_model.resources import (
    EndpointPort,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    GlobalNetworkSet,
    HostEndpoint,
    HostEndpointPort,
    Icmp,
    NetworkPolicy,
    NetworkSet,
    Profile,
    Resource,
    Rule,
    Tier,
    WorkloadEndpoint,
)
from hopwall_model.selectors import All, And, Global, Has, In, Not, Or, Selector, Text
from tests.proof.cloud import Address, Flow, Verdict, address, network

Policy = NetworkPolicy | GlobalNetworkPolicy
Endpoint = WorkloadEndpoint | HostEndpoint
#: A tier with the policies of it that apply: its name, whether its end passes, and they in order.
Applying = tuple[str, bool, list[Policy]]
Labels = dict[str, str]

NAMESPACE = "projectcalico.org/namespace"
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132, "udplite": 136}
ICMP_OF_VERSION = {4: 1, 6: 58}
#: The tiers that always exist: order, and whether the end of the tier passes.
GIVEN_TIERS = {
    "kube-admin": (1_000.0, True),
    "default": (1_000_000.0, False),
    "kube-baseline": (10_000_000.0, True),
}
INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a packet at one end, and which rule, or lack of one, said so."""

    verdict: Verdict
    by: str
    n_passes: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Both ends of a flow; None where the address is no workload's."""

    egress: Decision | None
    ingress: Decision | None

    @property
    def verdicts(self) -> tuple[Verdict | None, Verdict | None]:
        """The bare verdicts: egress, ingress."""
        return (
            self.egress.verdict if self.egress else None,
            self.ingress.verdict if self.ingress else None,
        )


@dataclass
class Bearer:
    """Whoever has addresses and labels: an endpoint or a network set."""

    labels: Labels
    nets: tuple[str, ...]
    ports: tuple[EndpointPort | HostEndpointPort, ...] = ()


@dataclass
class Semantics:
    """Answers for one cloud. Nothing is computed before it is asked for, and nothing twice."""

    resources: tuple[Resource, ...]
    _bearers_of: dict[str, list[Bearer]] = field(default_factory=dict)
    _meant: dict[tuple[str, Selector], bool] = field(default_factory=dict)
    _tiers_of: dict[tuple[str, str], list[Applying]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the resources by what they are."""
        given = self.resources
        self.profiles = {r.metadata.name: r for r in given if isinstance(r, Profile)}
        self.tiers = {r.metadata.name: r for r in given if isinstance(r, Tier)}
        self.policies = [r for r in given if isinstance(r, NetworkPolicy | GlobalNetworkPolicy)]
        self.endpoints = {_id(r): r for r in given if isinstance(r, WorkloadEndpoint)}
        self.owners: dict[str, WorkloadEndpoint] = {}
        for endpoint in self.by_age():
            for net in endpoint.spec.ip_networks:
                self.owners.setdefault(net.partition("/")[0], endpoint)
        self.bearers = [
            Bearer(self.labels(r), r.spec.nets)
            for r in given
            if isinstance(r, NetworkSet | GlobalNetworkSet)
        ]
        for key, endpoint in self.endpoints.items():
            mine = (a for a, owner in self.owners.items() if _id(owner) == key)
            self.bearers.append(Bearer(self.labels(endpoint), tuple(mine), endpoint.spec.ports))
        self.bearers += [
            Bearer(self.labels(r), r.spec.expected_ips, r.spec.ports)
            for r in given
            if isinstance(r, HostEndpoint)
        ]

    def by_age(self) -> list[WorkloadEndpoint]:
        """Return the endpoints, the oldest first: of two that claim an address it has it."""
        return sorted(self.endpoints.values(), key=_age)

    # ------------------------------------------------------------ the whole flow

    def sender(self, flow: Flow) -> WorkloadEndpoint | None:
        """Return the endpoint the packet comes from."""
        return self.endpoints[flow.sender] if flow.sender else self.owners.get(flow.source)

    def judge(self, flow: Flow) -> Judgement:
        """Return what becomes of the flow at each end."""
        sender, receiver = self.sender(flow), self.owners.get(flow.destination)
        return Judgement(
            egress=self.leaving(sender, flow) if sender else None,
            ingress=self._judged(receiver, flow, "Ingress") if receiver else None,
        )

    def leaving(self, sender: WorkloadEndpoint, flow: Flow) -> Decision:
        """Return what becomes of a packet that an endpoint sends."""
        spoofs = (address(flow.source) in network(n) for n in _spoofable(sender))
        owner = self.owners.get(flow.source)
        owns = owner is not None and _id(owner) == _id(sender)
        if not owns and not any(spoofs):
            return Decision("deny", "not its own address")
        return self._judged(sender, flow, "Egress")

    def _judged(self, endpoint: WorkloadEndpoint, flow: Flow, direction: str) -> Decision:
        if flow.state == "INVALID":
            return Decision("deny", "no flow it could belong to")
        if flow.state != "NEW":
            return Decision("allow", "established")
        return self.decide(endpoint, flow, direction)

    # ------------------------------------------------------------ one endpoint, one direction

    def decide(self, endpoint: WorkloadEndpoint, flow: Flow, direction: str) -> Decision:
        """Return what the endpoint's policies and profiles say of the first packet of a flow."""
        tiers = self.tiers_of(endpoint, direction)
        decided, n_passes = self.ask_tiers(tiers, flow, direction)
        return decided or self.ask_profiles(endpoint, flow, direction, n_passes)

    def ask_tiers(
        self, tiers: list[Applying], flow: Flow, direction: str
    ) -> tuple[Decision | None, int]:
        """Return what the tiers decide, None where they leave it open; and how often they passed."""
        n_passes = 0
        for name, passes_at_end, policies in tiers:
            action, by = self._first_match(policies, flow, direction)
            if action in ("allow", "deny"):
                return Decision("allow" if action == "allow" else "deny", by, n_passes), n_passes
            if action == "pass":
                n_passes += 1
            elif not passes_at_end and not only_log(policies, direction):
                return Decision("deny", f"end of tier {name}", n_passes), n_passes
        return None, n_passes

    def ask_profiles(
        self, endpoint: Endpoint, flow: Flow, direction: str, n_passes: int = 0
    ) -> Decision:
        """Return what the profiles say; without one that decides it is denied."""
        for profile_name in endpoint.spec.profiles:
            profile = self.profiles.get(profile_name)
            if profile is None:
                return Decision("deny", f"profile {profile_name} is absent", n_passes)
            for index, rule in enumerate(_rules(profile, direction)):
                if rule.action in ("Allow", "Deny") and self.matches(rule, "", flow):
                    by = f"profile/{profile_name}/{direction[0].lower()}{index}"
                    return Decision("allow" if rule.action == "Allow" else "deny", by, n_passes)
        return Decision("deny", "no profile allows", n_passes)

    def _first_match(self, policies: list[Policy], flow: Flow, direction: str) -> tuple[str, str]:
        """Return the action of the first rule that ends the tier, and the rule; ("", "") for none."""
        for policy in policies:
            if not self.tier_exists(policy.spec.tier):
                return "deny", f"tier {policy.spec.tier} is absent"
            namespace = policy.metadata.namespace or ""
            for index, rule in enumerate(_rules(policy, direction)):
                if rule.action != "Log" and self.matches(rule, namespace, flow):
                    place = f"{_policy_id(policy)}/{direction[0].lower()}{index}"
                    return rule.action.lower(), place
        return "", ""

    def tiers_of(self, endpoint: WorkloadEndpoint, direction: str) -> list[Applying]:
        """Return the tiers that have a policy for the endpoint and direction: name, end passes, policies."""
        key = (_id(endpoint), direction)
        if key not in self._tiers_of:
            mine = [p for p in self.policies if is_ordinary(p)]
            self._tiers_of[key] = self.arranged(mine, endpoint, direction)
        return self._tiers_of[key]

    def arranged(self, among: list[Policy], endpoint: Endpoint, direction: str) -> list[Applying]:
        """Return those of the policies that apply to the endpoint in a direction, by tier."""
        tiers: dict[str, list[Policy]] = {}
        for policy in among:
            if direction in _types(policy) and self.selects(policy, endpoint):
                tiers.setdefault(policy.spec.tier, []).append(policy)
        return [
            (name, self._tier(name)[1], sorted(tiers[name], key=_policy_order))
            for name in sorted(tiers, key=lambda name: (self._tier(name)[0], name))
        ]

    def selects(self, policy: Policy, endpoint: Endpoint) -> bool:
        """Tell whether the policy is one of the endpoint's."""
        labels = self.labels(endpoint)
        if isinstance(policy, NetworkPolicy):
            if policy.metadata.namespace != endpoint.metadata.namespace:
                return False
        elif not in_namespaces(policy.spec.namespace_selector, labels):
            return False
        return holds(selectors.parse(policy.spec.selector), labels)

    def tier_exists(self, name: str) -> bool:
        """Tell whether policies may be in the tier; where there is none, what they say is not asked."""
        return name in GIVEN_TIERS or name in self.tiers

    def _tier(self, name: str) -> tuple[float, bool]:
        """Return a tier's place and whether its end passes; an absent one comes first, as it denies."""
        if name in GIVEN_TIERS:
            return GIVEN_TIERS[name]
        if name not in self.tiers:
            return -INFINITY, False
        spec = self.tiers[name].spec
        return INFINITY if spec.order is None else spec.order, spec.default_action == "Pass"

    # ------------------------------------------------------------ labels

    def labels(self, item: Endpoint | NetworkSet | GlobalNetworkSet) -> Labels:
        """Return whom the item is: its own labels before its profiles', earlier profiles before later."""
        labels: Labels = {}
        profiles = item.spec.profiles if isinstance(item, WorkloadEndpoint | HostEndpoint) else ()
        for name in reversed(profiles):
            if name in self.profiles:
                labels |= self.profiles[name].spec.labels_to_apply
        labels |= item.metadata.labels
        # What is said of namespaces is the system's to say.
        labels = {k: v for k, v in labels.items() if k != NAMESPACE and not k.startswith("pcns.")}
        if namespace := item.metadata.namespace:
            declared = self.profiles.get(f"kns.{namespace}")
            for key, value in (declared.spec.labels_to_apply if declared else {}).items():
                if key.startswith("pcns."):
                    labels[key] = value
            labels[NAMESPACE] = labels["pcns.projectcalico.org/name"] = namespace
        if isinstance(item, WorkloadEndpoint) and item.spec.orchestrator:
            labels["projectcalico.org/orchestrator"] = item.spec.orchestrator
        return labels

    def bearers_of(self, text: str) -> list[Bearer]:
        """Return everyone who has the address."""
        if text not in self._bearers_of:
            wanted = address(text)
            self._bearers_of[text] = [
                b for b in self.bearers if any(wanted in network(n) for n in b.nets)
            ]
        return self._bearers_of[text]

    def means(self, selector: Selector, text: str) -> bool:
        """Tell whether one who has the address is meant; an address that is nobody's never is."""
        key = (text, selector)
        if key not in self._meant:
            self._meant[key] = any(holds(selector, b.labels) for b in self.bearers_of(text))
        return self._meant[key]

    # ------------------------------------------------------------ rules

    def matches(self, rule: Rule, namespace: str, flow: Flow) -> bool:
        """Tell whether the rule of a policy in this namespace ("" for none) is about the packet."""
        if rule.ip_version is not None and rule.ip_version != flow.version:
            return False
        return (
            _protocol_matches(rule, flow)
            and _icmp_matches(rule, flow)
            and self._side_matches(rule.source, namespace, flow, flow.source, flow.source_port)
            and self._side_matches(
                rule.destination, namespace, flow, flow.destination, flow.destination_port
            )
        )

    def _side_matches(
        self, side: EntityRule, namespace: str, flow: Flow, text: str, port: int
    ) -> bool:
        given = address(text)
        if side.nets and not _in_any(given, side.nets):
            return False
        if _in_any(given, side.not_nets):
            return False
        chosen = [b for b in self.bearers_of(text) if _chooses(side, namespace, b)]
        if side.ports and not _port_is_one_of(side.ports, flow, port, chosen):
            return False
        if _port_is_one_of(side.not_ports, flow, port, chosen):
            return False
        if side.not_selector and self.means(selectors.parse(side.not_selector), text):
            return False
        return bool(chosen) or not _selects(side, namespace)


# ---------------------------------------------------------------- small questions


def is_ordinary(policy: Policy) -> bool:
    """Tell whether the policy is neither before tracking nor before DNAT: those are for hosts alone."""
    spec = policy.spec
    return not (isinstance(spec, GlobalNetworkPolicySpec) and (spec.do_not_track or spec.pre_dnat))


def _selects(side: EntityRule, namespace: str) -> bool:
    """Tell whether the side means only those it selects; a mere exclusion, of no namespace, does not."""
    selecting = side.selector or side.namespace_selector
    return bool(selecting or (namespace and side.not_selector))


def _chooses(side: EntityRule, namespace: str, bearer: Bearer) -> bool:
    """Tell whether the side of a rule means the bearer of an address, apart from what it excludes."""
    if not _selects(side, namespace):
        return True
    if side.namespace_selector:
        at_home = in_namespaces(side.namespace_selector, bearer.labels)
    else:
        at_home = not namespace or bearer.labels.get(NAMESPACE) == namespace
    return at_home and holds(selectors.parse(side.selector), bearer.labels)


def _port_is_one_of(
    ports: Iterable[int | str], flow: Flow, port: int, chosen: list[Bearer]
) -> bool:
    """Tell whether the port is given, by number or as those whom the rule means name it.

    Source: Calico, calc/rule_scanner.go: a named port is of the endpoints that the rule selects, even where
    the address is also in a network set that it selects.
    """
    for given in ports:
        first, _, last = str(given).partition(":")
        if first.isdigit():
            if int(first) <= port <= int(last or first):
                return True
        elif any(
            (named.name, number(named.protocol), named.port) == (given, flow.protocol, port)
            for bearer in chosen
            for named in bearer.ports
        ):
            return True
    return False


def only_log(policies: list[Policy], direction: str) -> bool:
    """Tell whether each of the policies logs and does nothing else: one without rules denies."""
    rules = [_rules(policy, direction) for policy in policies]
    return all(mine and all(rule.action == "Log" for rule in mine) for mine in rules)


def number(protocol: int | str) -> int:
    """Return a protocol's number."""
    text = str(protocol)
    return int(text) if text.isdigit() else NUMBERS[text.lower()]


def holds(selector: Selector, labels: Labels) -> bool:
    """Tell whether the selector means who has these labels."""
    match selector:
        case All():
            return True
        case Global():
            return NAMESPACE not in labels
        case Has(label=label):
            return label in labels
        case In(label=label, values=values):
            return label in labels and labels[label] in values
        case Text():
            return selector.label in labels and _text_holds(selector, labels[selector.label])
        case Not(operand=operand):
            return not holds(operand, labels)
        case And(operands=operands):
            return all(holds(operand, labels) for operand in operands)
        case Or(operands=operands):
            return any(holds(operand, labels) for operand in operands)
        case _:
            raise AssertionError(selector)


def _text_holds(selector: Text, value: str) -> bool:
    if selector.operator == "contains":
        return selector.text in value
    if selector.operator == "starts with":
        return value.startswith(selector.text)
    return value.endswith(selector.text)


def in_namespaces(text: str, labels: Labels) -> bool:
    """Tell whether the bearer of the labels lives in a namespace that is meant; "" means anywhere.

    `all()` is every namespace, `global()` is none; else the conditions are on the namespace's own labels.
    """
    if not text:
        return True
    namespace = {k.removeprefix("pcns."): v for k, v in labels.items() if k.startswith("pcns.")}
    return _of_namespace(selectors.parse(text), NAMESPACE in labels, namespace)


def _of_namespace(selector: Selector, in_one: bool, labels: Labels) -> bool:
    match selector:
        case All():
            return in_one
        case Global():
            return not in_one
        case Not(operand=operand):
            return not _of_namespace(operand, in_one, labels)
        case And(operands=operands):
            return all(_of_namespace(operand, in_one, labels) for operand in operands)
        case Or(operands=operands):
            return any(_of_namespace(operand, in_one, labels) for operand in operands)
    return holds(selector, labels)


def _protocol_matches(rule: Rule, flow: Flow) -> bool:
    if rule.protocol is not None:
        wanted = number(rule.protocol)
        if wanted != flow.protocol or wanted == ICMP_OF_VERSION[10 - flow.version]:
            return False  # ICMP is of IPv4 and ICMPv6 of IPv6, whatever the header says
    return rule.not_protocol is None or number(rule.not_protocol) != flow.protocol


def _icmp_matches(rule: Rule, flow: Flow) -> bool:
    if rule.icmp is not None and not _icmp_is(rule.icmp, flow):
        return False
    return rule.not_icmp is None or not _icmp_is(rule.not_icmp, flow)


def _icmp_is(icmp: Icmp, flow: Flow) -> bool:
    if flow.protocol != ICMP_OF_VERSION[flow.version]:
        return False
    return icmp.type in (None, flow.icmp_type) and icmp.code in (None, flow.icmp_code)


def _in_any(given: Address, nets: Iterable[str]) -> bool:
    return any(given in network(net) for net in nets)


def _spoofable(endpoint: WorkloadEndpoint) -> tuple[str, ...]:
    return endpoint.spec.allow_spoofed_source_prefixes


def _id(endpoint: WorkloadEndpoint) -> str:
    return f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"


def _age(endpoint: WorkloadEndpoint) -> tuple[bool, str, str, str]:
    """Sort the oldest first; who does not say when he came is the youngest."""
    meta = endpoint.metadata
    created = meta.creation_timestamp or ""
    return not created, created, meta.namespace or "", meta.name


def _types(policy: Policy) -> tuple[str, ...]:
    if policy.spec.types:
        return policy.spec.types
    if policy.spec.egress:
        return ("Ingress", "Egress") if policy.spec.ingress else ("Egress",)
    return ("Ingress",)


def _rules(item: Policy | Profile, direction: str) -> tuple[Rule, ...]:
    return item.spec.ingress if direction == "Ingress" else item.spec.egress


def _policy_order(policy: Policy) -> tuple[float, str, str, str]:
    order = INFINITY if policy.spec.order is None else policy.spec.order
    meta = policy.metadata
    return order, meta.name, meta.namespace or "", type(policy).__name__


def _policy_id(policy: Policy) -> str:
    meta = policy.metadata
    return f"np/{meta.namespace}/{meta.name}" if meta.namespace else f"gnp/{meta.name}"
