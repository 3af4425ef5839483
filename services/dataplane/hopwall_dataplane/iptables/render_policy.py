"""A policy's rules as lines: one chain per policy and direction, shared by all classes that use it.

An allow at ingress accepts. At egress there may be an ingress to come, so an allow goes to a chain that
marks the packet as allowed; from there it is back in the class's chain, which looks at the mark. A rule that
matches one of several things (ports beyond one multiport, say) becomes several lines, which is an OR;
conditions on one line are an AND. Where both sides have several, the lines are steps (`_in_steps`).

Pure. It refuses text: all it prints comes from integers, canonical addresses and hashed set names.
Source: iptables-extensions(8): multiport takes 15 slots, a range takes two; set, u32, ipv6header.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from hopwall_dataplane.iptables.identity import Denial, Origin, rule_origins
from hopwall_dataplane.iptables.nflog import denial, deny_actions, log_action
from hopwall_dataplane.iptables.static import ALLOWED, RenderSettings
from hopwall_dataplane.iptables.table import bearing
from hopwall_dataplane.outcome import Family
from hopwall_model.names import chain_name, set_name
from hopwall_model.updates import (
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetId,
    SetKind,
)

Direction = Literal["egress", "ingress"]
DIRECTIONS: tuple[Direction, ...] = ("egress", "ingress")

#: What stands in for a chain that the kernel refused.
CLOSED: tuple[str, ...] = ("-j DROP",)

_MULTIPORT_SLOTS = 15
_ICMP = 1
_ICMPV6 = 58
_AH = 51
#: What ip6tables calls the headers that lead to another one (RFC 8200, 4.1; RFC 4302).
_EXTENSION_HEADERS = {
    0: "hop-by-hop",
    43: "ipv6-route",
    44: "ipv6-frag",
    _AH: "ah",
    60: "ipv6-opts",
}


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


#: Negated ports a line can bear: the tool takes 255 words a line, and each is up to five.
_MAX_EXCLUDED_INLINE = 8


class _Ports(NamedTuple):
    """The port matches of a rule: one of `source`, one of `destination`, and none of `excluded`.

    Shape: "" matches always. `excluded` has each match twice: as it is, and negated.
    """

    source: list[str]
    destination: list[str]
    excluded: list[tuple[str, str]]

    def need_steps(self, *, logs: bool) -> bool:
        """Tell whether steps are needed: they are fewer lines, or one packet would be logged twice."""
        n, m = len(self.source), len(self.destination)
        too_long = len(self.excluded) > _MAX_EXCLUDED_INLINE
        return n * m > n + m + 2 or too_long or (logs and n * m > 1)


def render_policy(
    policy: PolicySet,
    direction: Direction,
    family: Family,
    settings: RenderSettings,
    known_sets: Mapping[SetId, SetKind],
    *,
    marking: bool = False,
) -> tuple[str, ...]:
    """Return the lines of a policy's chain, in the form that `policy_chain` names.

    A rule that names a set nobody delivered, or one of another kind, closes the whole policy: a deny by
    an absent set would otherwise match nothing, and open what it was to close. All lines of a rule bear
    its identity.

    Cost: a rule is n * m lines where its source ports take n and its destination ports m, and n + m + 2
          where that is less; 15 numbers, 7 ranges or a named port take one.
    """
    lines: list[str] = []
    rules = rules_of(policy, direction)
    origins = rule_origins(policy.id, policy.tier, direction, rules)
    for rule, origin in zip(rules, origins, strict=True):
        if any(known_sets.get(set_id) != kind for set_id, kind in _sets_of(rule)):
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
    return {s for rule in (*policy.ingress, *policy.egress) for s, _ in _sets_of(rule)}


def _sets_of(rule: ResolvedRule) -> Iterator[tuple[SetId, SetKind]]:
    for side in (rule.source, rule.destination):
        for set_id in (*side.sets, *side.not_sets):
            yield set_id, "net"
        for set_id in (*side.port_sets, *side.not_port_sets):
            yield set_id, "port"


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
    ports = _Ports(
        _port_matches(rule.source, "s", family),
        _port_matches(rule.destination, "d", family),
        [*_not_ports(rule.source, "s", family), *_not_ports(rule.destination, "d", family)],
    )
    back = bearing("-j RETURN", origin.identity)
    if ports.need_steps(logs=rule.action == "log"):
        if rule.action == "pass":
            actions = (back,)
        yield from _in_steps(rule, origin, head, ports, actions, settings.marks.passed)
        return
    head += [negated for _, negated in ports.excluded]
    for source in ports.source:
        for destination in ports.destination:
            for action in actions:
                yield _line(*head, source, destination, action)
    if rule.action == "pass":
        passed = f"{settings.marks.passed:#x}/{settings.marks.passed:#x}"
        # This line counts, as a packet meets it once, on whichever line above it was marked.
        yield _line(f"-m mark --mark {passed}", back)


def _in_steps(
    rule: ResolvedRule,
    origin: Origin,
    head: list[str],
    ports: _Ports,
    actions: Iterable[str],
    passed: int,
) -> Iterator[str]:
    """Return a rule as steps that speak to each other by the bit of Pass.

    The bit is clear while a policy's rules run, save between these lines: what matches all but the
    destination's ports sets it, what is excluded clears it, and what still has it meets the destination's
    ports. A packet that is passed leaves with the bit, which is what Pass means; `hw-allowed` clears it;
    whoever else goes on finds it cleared. Only the actions count.
    """
    clear = bearing(f"-j MARK --set-xmark 0x0/{passed:#x}", origin.identity, counts=False)
    mark = bearing(f"-j MARK --set-xmark {passed:#x}/{passed:#x}", origin.identity, counts=False)
    still = f"-m mark --mark {passed:#x}/{passed:#x} {_protocol_of(rule)}".rstrip()
    yield clear
    for source in ports.source:
        yield _line(*head, source, mark)
    for excluded, _ in ports.excluded:
        yield _line(still, excluded, clear)
    for destination in ports.destination:
        for action in actions:
            yield _line(still, destination, action)
        if rule.action == "log":
            yield _line(still, destination, clear)  # A packet is told once, also by a second match.
    yield clear


def _line(*parts: str) -> str:
    return " ".join(part for part in parts if part)


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
    if any(part is None for part in parts):
        return None
    return [part for part in parts if part]


def _protocol(rule: ResolvedRule, family: Family) -> str | None:
    """Return the protocol match; None when it can never hold, "" when it always does."""
    number, negated = rule.protocol, rule.not_protocol
    if number == (_ICMP if family is Family.V6 else _ICMPV6):
        return None  # the other family's ICMP
    if number is not None and number == negated:
        return None
    opens = rule.action in ("allow", "pass")
    parts = []
    if number is not None:
        parts.append(_protocol_match(number, family, negated=False, opens=opens))
    if negated is not None:
        match = _protocol_match(negated, family, negated=True, opens=opens)
        if number is None or not (match or "").startswith("! -p"):  # else a line would have two -p
            parts.append(match)
    return None if None in parts else " ".join(part for part in parts if part)


def _protocol_match(number: int, family: Family, *, negated: bool, opens: bool) -> str | None:
    """Return the match of one protocol; None when it can never hold, "" when it always does.

    To iptables `-p 0` is any protocol, so in IPv4 the byte of the header is looked at. In IPv6 `-p` is about
    the last header (ipv6_find_hdr), which is never an extension header: it would never match those. Who
    denies one means packets that carry it, and who allows one does not mean whatever is behind it, as a
    sender can put it before anything; so it is read the way that lets less by. AH is the protocol of what
    it protects, as in IPv4; `-p` says so with nft, and with legacy looks behind it.
    """
    sign = "! " if negated else ""
    if family is Family.V4 and number == 0:
        return f"-m u32 {sign}--u32 6&0xff=0x0"
    if family is Family.V4 or number not in _EXTENSION_HEADERS:
        return f"{sign}-p {number}"
    if negated == opens or number == _AH:
        return f"-m ipv6header {sign}--header {_EXTENSION_HEADERS[number]} --soft"
    return "" if negated else None


def _protocol_of(rule: ResolvedRule) -> str:
    return "" if rule.protocol is None else f"-p {rule.protocol}"


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
    return Family.of(cidr)


def _set_matches(side: Entity, flag: str, family: Family) -> Iterator[str]:
    for set_id in side.sets:
        yield f"-m set --match-set {set_name(family.value, set_id)} {flag}"
    for set_id in side.not_sets:
        yield f"-m set ! --match-set {set_name(family.value, set_id)} {flag}"


def _port_matches(side: Entity, end: Literal["s", "d"], family: Family) -> list[str]:
    """Return the matches of which one must hold; [""] when the side says nothing of ports."""
    both = [match for match, _ in _matches(side.ports, side.port_sets, end, family)]
    return both or [""]


def _not_ports(side: Entity, end: Literal["s", "d"], family: Family) -> Iterator[tuple[str, str]]:
    return _matches(side.not_ports, side.not_port_sets, end, family)


def _matches(
    ports: Sequence[PortRange], sets: Sequence[SetId], end: Literal["s", "d"], family: Family
) -> Iterator[tuple[str, str]]:
    """Return each match of ports, as it is and negated."""
    for chunk in _port_chunks(ports):
        yield f"-m multiport --{end}ports {chunk}", f"-m multiport ! --{end}ports {chunk}"
    where = "src,src" if end == "s" else "dst,dst"
    for set_id in sets:
        match = f"--match-set {set_name(family.value, set_id, 'port')} {where}"
        yield f"-m set {match}", f"-m set ! {match}"


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
