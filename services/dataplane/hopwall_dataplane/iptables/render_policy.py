"""A policy's rules as lines: one chain per policy and direction, shared by all classes that use it.

An allow at ingress accepts. At egress there may be an ingress to come, so an allow goes to a chain that marks
the packet as allowed; from there it is back in the class's chain, which looks at the mark. A rule that matches one of several things (ports
beyond one multiport, say) becomes several lines, which is an OR; conditions on one line are an AND.

Pure. It refuses text: all it prints comes from integers, canonical addresses and hashed set names.
Source: iptables-extensions(8): multiport takes 15 slots, a range takes two.
"""

import ipaddress
from collections.abc import Container, Iterator, Sequence
from typing import Literal

from hopwall_dataplane.iptables.identity import Denial, Origin, rule_origins
from hopwall_dataplane.iptables.nflog import denial, deny_actions, log_action
from hopwall_dataplane.iptables.static import ALLOWED, RenderSettings
from hopwall_dataplane.iptables.table import bearing
from hopwall_dataplane.outcome import Family
from hopwall_model.names import chain_name, set_name
from hopwall_model.updates import Entity, PolicyId, PolicySet, PortRange, ResolvedRule, SetId

Direction = Literal["egress", "ingress"]
DIRECTIONS: tuple[Direction, ...] = ("egress", "ingress")

#: What stands in for a chain that the kernel refused.
CLOSED: tuple[str, ...] = ("-j DROP",)

_MULTIPORT_SLOTS = 15
_ICMP = 1
_ICMPV6 = 58


def policy_chain(policy: PolicyId, direction: Direction, *, marking: bool = False) -> str:
    """Name the chain of a policy in one direction.

    With `marking` it is the form whose allow comes back with a mark also at ingress: for packets that
    have more to pass. At egress there is only that form.
    """
    kind = "pe" if direction == "egress" else "pm" if marking else "pi"
    return chain_name(kind, policy)


def can_pass(policy: PolicySet, direction: Direction) -> bool:
    """Tell whether a packet may leave this policy by Pass, to the next tier."""
    return any(rule.action == "pass" for rule in rules_of(policy, direction))


def rules_of(policy: PolicySet, direction: Direction) -> tuple[ResolvedRule, ...]:
    """Return the rules of one direction."""
    return policy.egress if direction == "egress" else policy.ingress


def render_policy(
    policy: PolicySet,
    direction: Direction,
    family: Family,
    settings: RenderSettings,
    known_sets: Container[SetId],
    *,
    marking: bool = False,
) -> tuple[str, ...]:
    """Return the lines of a policy's chain, in the form that `policy_chain` names.

    A rule that names a set nobody delivered closes the whole policy: a deny by an absent set would
    otherwise match nothing, and open what it was to close. All lines of a rule bear its identity.
    """
    lines: list[str] = []
    rules = rules_of(policy, direction)
    origins = rule_origins(policy.id, policy.tier, direction, rules)
    for rule, origin in zip(rules, origins, strict=True):
        if any(set_id not in known_sets for set_id in _sets_of(rule)):
            return closed_policy(policy.id, direction, settings)
        marks = marking or direction == "egress"
        lines.extend(_render_rule(rule, origin, family, settings, marks))
    return tuple(lines)


def closed_policy(
    policy: PolicyId, direction: Direction, settings: RenderSettings
) -> tuple[str, ...]:
    """Return the lines of a policy that cannot be rendered: it denies all."""
    return denial(Denial("closed", direction, policy=policy), settings.log)


def policy_sets(policy: PolicySet) -> set[SetId]:
    """Return every set the policy names, in either direction."""
    return {s for rule in (*policy.ingress, *policy.egress) for s in _sets_of(rule)}


def _sets_of(rule: ResolvedRule) -> Iterator[SetId]:
    for side in (rule.source, rule.destination):
        yield from side.sets
        yield from side.not_sets


def _render_rule(
    rule: ResolvedRule,
    origin: Origin,
    family: Family,
    settings: RenderSettings,
    marking: bool,
) -> Iterator[str]:
    head = _head(rule, family)
    if head is None:
        return
    actions = _actions(rule, origin, settings, marking)
    for source_ports in _port_matches("sports", rule.source.ports):
        for destination_ports in _port_matches("dports", rule.destination.ports):
            match = " ".join(part for part in (*head, source_ports, destination_ports) if part)
            for action in actions:
                yield f"{match} {action}".lstrip()
    if rule.action == "pass":
        passed = f"{settings.marks.passed:#x}/{settings.marks.passed:#x}"
        # This line counts, as a packet meets it once, on whichever line above it was marked.
        yield bearing(f"-m mark --mark {passed} -j RETURN", origin.identity)


def _actions(
    rule: ResolvedRule, origin: Origin, settings: RenderSettings, marking: bool
) -> tuple[str, ...]:
    match rule.action:
        case "allow":
            return (bearing(f"-g {ALLOWED}" if marking else "-j ACCEPT", origin.identity),)
        case "deny":
            return deny_actions(origin, settings.log)
        case "pass":
            passed = f"{settings.marks.passed:#x}/{settings.marks.passed:#x}"
            return (bearing(f"-j MARK --set-xmark {passed}", origin.identity, counts=False),)
        case "log":
            return (log_action(origin, "log", settings.log),)


def _head(rule: ResolvedRule, family: Family) -> list[str] | None:
    """Return all conditions but positive ports; None when the rule can match nothing in this family."""
    if rule.ip_version is not None and f"v{rule.ip_version}" != family:
        return None
    parts = [_protocol(rule, family), *_icmp(rule, family)]
    for side, flag, set_flag in ((rule.source, "-s", "src"), (rule.destination, "-d", "dst")):
        parts.append(_address(side, flag, family))
        parts.extend(_set_matches(side, set_flag, family))
    parts.extend(_not_ports("sports", rule.source.not_ports))
    parts.extend(_not_ports("dports", rule.destination.not_ports))
    if any(part is None for part in parts):
        return None
    return [part for part in parts if part]


def _protocol(rule: ResolvedRule, family: Family) -> str | None:
    parts = []
    if rule.protocol is not None:
        if rule.protocol == (_ICMP if family is Family.V6 else _ICMPV6):
            return None  # the other family's ICMP
        parts.append(f"-p {rule.protocol}")
    if rule.not_protocol is not None:
        if rule.protocol is None:
            parts.append(f"! -p {rule.not_protocol}")
        elif rule.protocol == rule.not_protocol:
            return None
    return " ".join(parts)


def _icmp(rule: ResolvedRule, family: Family) -> Iterator[str]:
    name, option = ("icmp", "--icmp-type") if family is Family.V4 else ("icmp6", "--icmpv6-type")
    if rule.icmp_type is not None:
        yield f"-m {name} {option} {_icmp_value(rule.icmp_type, rule.icmp_code)}"
    if rule.not_icmp_type is not None:
        yield f"-m {name} ! {option} {_icmp_value(rule.not_icmp_type, rule.not_icmp_code)}"


def _icmp_value(kind: int, code: int | None) -> str:
    return f"{kind}" if code is None else f"{kind}/{code}"


def _address(side: Entity, flag: str, family: Family) -> str | None:
    """Return the address match; None when it can never hold, "" when it always does."""
    parts = []
    if side.net is not None:
        if _family_of(side.net) is not family:
            return None
        parts.append(f"{flag} {side.net}")
    if side.not_net is not None and _family_of(side.not_net) is family:
        if side.not_net.endswith("/0"):
            return None
        if side.net is not None:
            # One option of a kind per line: the second address is told by a range match.
            parts.append(f"-m iprange ! {_iprange(flag, side.not_net)}")
        else:
            parts.append(f"! {flag} {side.not_net}")
    return " ".join(parts)


def _iprange(flag: str, cidr: str) -> str:
    net = ipaddress.ip_network(cidr)
    option = "--src-range" if flag == "-s" else "--dst-range"
    return f"{option} {net[0]}-{net[-1]}"


def _family_of(cidr: str) -> Family:
    return Family.V6 if ":" in cidr else Family.V4


def _set_matches(side: Entity, flag: str, family: Family) -> Iterator[str]:
    for set_id in side.sets:
        yield f"-m set --match-set {set_name(family.value, set_id)} {flag}"
    for set_id in side.not_sets:
        yield f"-m set ! --match-set {set_name(family.value, set_id)} {flag}"


def _port_matches(option: str, ports: Sequence[PortRange]) -> list[str]:
    if not ports:
        return [""]
    return [f"-m multiport --{option} {chunk}" for chunk in _port_chunks(ports)]


def _not_ports(option: str, ports: Sequence[PortRange]) -> Iterator[str]:
    for chunk in _port_chunks(ports):
        yield f"-m multiport ! --{option} {chunk}"


def _port_chunks(ports: Sequence[PortRange]) -> Iterator[str]:
    chunk: list[str] = []
    slots = 0
    for port in ports:
        single = port.first == port.last
        need = 1 if single else 2
        if slots + need > _MULTIPORT_SLOTS:
            yield ",".join(chunk)
            chunk, slots = [], 0
        chunk.append(f"{port.first}" if single else f"{port.first}:{port.last}")
        slots += need
    if chunk:
        yield ",".join(chunk)
