"""From rules as declared to rules as rendered: numbers, canonical ranges and set ids."""

from collections.abc import Iterable

from msgspec import Struct

from hopwall_calc.intake import in_namespace, of_namespaces
from hopwall_model import cidr, selectors
from hopwall_model.names import digest
from hopwall_model.protocols import number_of
from hopwall_model.resources import EntityRule, Icmp, Rule, Rules
from hopwall_model.selectors import Selector
from hopwall_model.updates import Entity, PolicyId, PortRange, ResolvedRule, Scope, SetId, Verdict


class NamedPort(Struct, frozen=True):
    """The endpoints that a selector means, at their port of this name and protocol."""

    selector: Selector
    protocol: int
    port: str


#: What a set is made of: whom a selector means, who has a named port, or a list of ranges.
SetSource = Selector | NamedPort | tuple[str, ...]


class ResolvedPolicy(Struct, frozen=True, kw_only=True):
    """A policy's rules, and the sets they name."""

    ingress: tuple[ResolvedRule, ...]
    egress: tuple[ResolvedRule, ...]
    sets: dict[SetId, SetSource]
    #: "" for a profile, and for what is not there at all.
    tier: str = ""
    #: Why it denies everything instead of what was declared; "" if it does not.
    fault: str = ""
    #: A profile that nobody declared.
    absent: bool = False
    #: What a host that uses the policy needs: the policy itself and its sets.
    scopes: tuple[Scope, ...]


def resolve(
    policy_id: PolicyId, namespace: str, *, tier: str = "", ingress: Rules, egress: Rules
) -> ResolvedPolicy:
    """Return a policy's rules in renderable form.

    Errors: ValueError for a named port in a rule without a protocol.
    Source: Calico, updateprocessors/rules.go (namespaces of selectors), calc/rule_scanner.go (sets).
    """
    sets: dict[SetId, SetSource] = {}
    return ResolvedPolicy(
        ingress=_rules(policy_id, "i", namespace, ingress, sets),
        egress=_rules(policy_id, "e", namespace, egress, sets),
        sets=sets,
        tier=tier,
        scopes=(policy_scope(policy_id), *sorted(set_scope(set_id) for set_id in sets)),
    )


def deny_all(
    policy_id: PolicyId, *, tier: str = "", fault: str = "", absent: bool = False
) -> ResolvedPolicy:
    """Return what stands in for a policy that is absent or not understood, and says why."""
    return ResolvedPolicy(
        ingress=(ResolvedRule(id=f"{policy_id}/i0", action="deny"),),
        egress=(ResolvedRule(id=f"{policy_id}/e0", action="deny"),),
        sets={},
        tier=tier,
        fault=fault,
        absent=absent,
        scopes=(policy_scope(policy_id),),
    )


def policy_scope(policy_id: PolicyId) -> Scope:
    """Return the scope of a policy."""
    return Scope(f"policy/{policy_id}")


def set_scope(set_id: SetId) -> Scope:
    """Return the scope of a set."""
    return Scope(f"set/{set_id}")


def _rules(
    policy_id: PolicyId, letter: str, namespace: str, rules: Rules, sets: dict[SetId, SetSource]
) -> tuple[ResolvedRule, ...]:
    return tuple(
        _rule(f"{policy_id}/{letter}{index}", namespace, rule, sets)
        for index, rule in enumerate(rules)
    )


_VERDICTS: dict[str, Verdict] = {"Allow": "allow", "Deny": "deny", "Pass": "pass", "Log": "log"}
_NO_ICMP = Icmp()


def _rule(rule_id: str, namespace: str, rule: Rule, sets: dict[SetId, SetSource]) -> ResolvedRule:
    icmp, not_icmp = rule.icmp or _NO_ICMP, rule.not_icmp or _NO_ICMP
    protocol = None if rule.protocol is None else number_of(rule.protocol)
    return ResolvedRule(
        id=rule_id,
        action=_VERDICTS[rule.action],
        ip_version=rule.ip_version,
        protocol=protocol,
        not_protocol=None if rule.not_protocol is None else number_of(rule.not_protocol),
        icmp_type=icmp.type,
        icmp_code=icmp.code,
        not_icmp_type=not_icmp.type,
        not_icmp_code=not_icmp.code,
        source=_entity(namespace, rule.source, protocol, sets),
        destination=_entity(namespace, rule.destination, protocol, sets),
    )


_ANYONE = EntityRule()


def _entity(
    namespace: str, entity: EntityRule, protocol: int | None, sets: dict[SetId, SetSource]
) -> Entity:
    if entity == _ANYONE:
        return Entity()
    positive: list[SetId] = []
    negative: list[SetId] = []
    selector = _positive_selector(namespace, entity)
    if selector is not None:
        positive.append(_selector_set(selector, sets))
    if entity.not_selector:
        # Not folded into the positive one: an address that is nobody's is not meant by the selector,
        # so it must pass its negation.
        negative.append(_selector_set(selectors.parse(entity.not_selector), sets))
    net = _nets(entity.nets, positive, sets)
    not_net = _nets(entity.not_nets, negative, sets)
    ports, names = _split(entity.ports)
    not_ports, not_names = _split(entity.not_ports)
    return Entity(
        net=net,
        not_net=not_net,
        sets=tuple(positive),
        not_sets=tuple(negative),
        ports=port_ranges(ports),
        not_ports=port_ranges(not_ports),
        port_sets=_port_sets(names, protocol, selector, sets),
        not_port_sets=_port_sets(not_names, protocol, selector, sets),
    )


def _port_sets(
    names: Iterable[str],
    protocol: int | None,
    selector: Selector | None,
    sets: dict[SetId, SetSource],
) -> tuple[SetId, ...]:
    """Return the sets of those who have these ports, of whom the rule's side means.

    Those it does not mean are left out, of negated ones too: the rule matches none of them anyway, and a
    set of a few is smaller than one of all.

    Source: Calico, calc/rule_scanner.go (namedPortsToIPSets).
    """
    ids: dict[SetId, None] = {}
    for name in names:
        if protocol is None:
            raise ValueError(
                f"The port {name} has a name, which needs a protocol in the same rule."
            )
        whose = "" if selector is None else selectors.selector_id(selector)
        set_id = SetId("np:" + digest(f"{whose}\n{protocol}\n{name}", 24))
        sets[set_id] = NamedPort(selectors.ALL if selector is None else selector, protocol, name)
        ids[set_id] = None
    return tuple(ids)


def _split(ports: Iterable[int | str]) -> tuple[list[int | str], list[str]]:
    """Return the ports that are numbers or ranges, and those that are names."""
    numbers: list[int | str] = []
    names: list[str] = []
    for port in ports:
        if isinstance(port, int) or ":" in port or port.isdigit():
            numbers.append(port)
        else:
            names.append(port)
    return numbers, names


def _positive_selector(namespace: str, entity: EntityRule) -> Selector | None:
    """Return whom the rule means, or None if it does not select.

    A rule of a namespaced policy that selects in any way selects in its own namespace, unless it names
    others.
    """
    if not (entity.selector or entity.not_selector or entity.namespace_selector):
        return None
    if entity.namespace_selector:
        place = of_namespaces(entity.namespace_selector)
    elif namespace:
        place = in_namespace(namespace)
    elif not entity.selector:
        return None
    else:
        place = selectors.ALL
    return selectors.and_(place, selectors.parse(entity.selector))


def _selector_set(selector: Selector, sets: dict[SetId, SetSource]) -> SetId:
    set_id = SetId(selectors.selector_id(selector))
    sets[set_id] = selector
    return set_id


def _nets(nets: tuple[str, ...], ids: list[SetId], sets: dict[SetId, SetSource]) -> str | None:
    """Return a single net; make several a set and note its id."""
    distinct = sorted(set(nets))
    if len(distinct) <= 1:
        return distinct[0] if distinct else None
    set_id = SetId("n:" + digest("\n".join(distinct), 24))
    halves = (half for net in distinct for half in cidr.split_zero(cidr.Cidr(net)))
    sets[set_id] = tuple(dict.fromkeys(halves))
    ids.append(set_id)
    return None


def port_ranges(ports: Iterable[int | str]) -> tuple[PortRange, ...]:
    """Return the ports as the fewest ranges, sorted.

    Errors: ValueError for a port that has a name.
    """
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_range(port) for port in ports):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(PortRange(first, last) for first, last in merged)


def _range(port: int | str) -> tuple[int, int]:
    if isinstance(port, int):
        return port, port
    first, _, last = port.partition(":")
    return int(first), int(last or first)
