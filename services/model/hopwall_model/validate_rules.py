"""Rules and policies: what `validate` checks of them, and their canonical form."""

import re

from msgspec.structs import replace

from hopwall_model import protocols, resource_names
from hopwall_model import validate_fields as check
from hopwall_model.not_implemented import refuse_unimplemented
from hopwall_model.problems import Code, Findings, step
from hopwall_model.resources import (
    Direction,
    EntityRule,
    GlobalNetworkPolicySpec,
    Icmp,
    NetworkPolicySpec,
    ProfileSpec,
    Rule,
)
from hopwall_model.selectors import NAMESPACE_LABEL

_RANGE = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?")
_MAX_PORT = 65535
_FAMILIES = {protocols.ICMP: 4, protocols.ICMPV6: 6}


def policy(found: Findings, pointer: str, spec: NetworkPolicySpec) -> NetworkPolicySpec:
    """Return the policy in canonical form."""
    refuse_unimplemented(found, pointer, spec)
    check.dns_label(found, step(pointer, "tier"), spec.tier)
    check.selector(found, step(pointer, "selector"), spec.selector)
    if isinstance(spec, GlobalNetworkPolicySpec):
        check.selector(found, step(pointer, "namespaceSelector"), spec.namespace_selector)
        _check_host_flags(found, pointer, spec)
    return replace(
        spec,
        types=_types(spec),
        ingress=rules(found, step(pointer, "ingress"), spec.ingress),
        egress=rules(found, step(pointer, "egress"), spec.egress),
    )


def _check_host_flags(found: Findings, pointer: str, spec: GlobalNetworkPolicySpec) -> None:
    """Check what only means something for host endpoints.

    Source: Calico v3 API, GlobalNetworkPolicy: preDNAT, doNotTrack, applyOnForward.
    """
    early = {"doNotTrack": spec.do_not_track, "preDNAT": spec.pre_dnat}
    if all(early.values()):
        reason = "doNotTrack and preDNAT are two places in a packet's way; set one of them."
        found.add(step(pointer, "preDNAT"), reason, Code.CONFLICT)
    for field, given in early.items():
        if given and not spec.apply_on_forward:
            reason = f"{field} concerns forwarded packets too; set applyOnForward to true."
            found.add(step(pointer, field), reason, Code.CONFLICT)
    if spec.pre_dnat and (spec.egress or "Egress" in spec.types):
        reason = "A preDNAT policy is for ingress only; remove egress rules and the type Egress."
        found.add(step(pointer, "preDNAT"), reason, Code.CONFLICT)


def _types(spec: NetworkPolicySpec) -> tuple[Direction, ...]:
    """Return the directions a policy is for; where none is given, as Calico derives them."""
    if spec.types:
        return tuple(t for t in ("Ingress", "Egress") if t in spec.types)
    if spec.egress:
        return ("Ingress", "Egress") if spec.ingress else ("Egress",)
    return ("Ingress",)


def profile(found: Findings, pointer: str, spec: ProfileSpec) -> ProfileSpec:
    """Return the profile in canonical form."""
    labels = step(pointer, "labelsToApply")
    check.labels(found, labels, spec.labels_to_apply)
    if NAMESPACE_LABEL in spec.labels_to_apply:
        reason = f"The label {NAMESPACE_LABEL} is set by the system; remove it."
        found.add(step(labels, NAMESPACE_LABEL), reason, Code.CONFLICT)
    for direction, given in (("ingress", spec.ingress), ("egress", spec.egress)):
        for index, rule in enumerate(given):
            if rule.action == "Pass":
                place = step(step(step(pointer, direction), index), "action")
                reason = "Pass leads to the next tier, and profiles come after all tiers: no Pass."
                found.add(place, reason, Code.CONFLICT)
    return replace(
        spec,
        ingress=rules(found, step(pointer, "ingress"), spec.ingress),
        egress=rules(found, step(pointer, "egress"), spec.egress),
    )


def rules(found: Findings, pointer: str, given: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Return the rules in canonical form, in order."""
    return tuple(_rule(found, step(pointer, index), rule) for index, rule in enumerate(given))


def _rule(found: Findings, pointer: str, rule: Rule) -> Rule:
    refuse_unimplemented(found, pointer, rule)
    rule = replace(
        rule,
        protocol=check.protocol(found, step(pointer, "protocol"), rule.protocol),
        not_protocol=check.protocol(found, step(pointer, "notProtocol"), rule.not_protocol),
        source=_entity(found, step(pointer, "source"), rule.source, rule.ip_version),
        destination=_entity(found, step(pointer, "destination"), rule.destination, rule.ip_version),
    )
    try:
        number = None if rule.protocol is None else protocols.number_of(rule.protocol)
    except ValueError:
        return rule  # noted already; what hangs on the protocol cannot be judged
    _check_family(found, pointer, rule, number)
    for field, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None:
            _check_icmp(found, step(pointer, field), icmp, number)
    for side, entity in (("source", rule.source), ("destination", rule.destination)):
        _check_ports_allowed(found, step(pointer, side), entity, number)
    return rule


def _check_family(found: Findings, pointer: str, rule: Rule, number: int | None) -> None:
    family = rule.ip_version if number is None else _FAMILIES.get(number, rule.ip_version)
    if rule.ip_version is not None and family != rule.ip_version:
        reason = f"Protocol {rule.protocol} is of IP version {family}; change or remove ipVersion."
        found.add(step(pointer, "ipVersion"), reason, Code.CONFLICT)


def _check_icmp(found: Findings, pointer: str, icmp: Icmp, number: int | None) -> None:
    if number not in (protocols.ICMP, protocols.ICMPV6):
        reason = "An ICMP match needs protocol ICMP or ICMPv6 in the same rule."
        found.add(pointer, reason, Code.CONFLICT)
    if icmp.type is None:
        what = "A code needs a type" if icmp.code is not None else "An ICMP match needs a type"
        found.add(step(pointer, "type"), f"{what}; give one.", Code.MISSING)


def _check_ports_allowed(
    found: Findings, pointer: str, entity: EntityRule, number: int | None
) -> None:
    if number is not None and protocols.has_ports(number):
        return
    for field, ports in (("ports", entity.ports), ("notPorts", entity.not_ports)):
        if ports:
            reason = "Ports need protocol TCP, UDP, SCTP or UDPLite in the same rule."
            found.add(step(pointer, field), reason, Code.CONFLICT)


def _entity(
    found: Findings, pointer: str, entity: EntityRule, ip_version: int | None
) -> EntityRule:
    refuse_unimplemented(found, pointer, entity)
    check.selector(found, step(pointer, "selector"), entity.selector)
    check.selector(found, step(pointer, "notSelector"), entity.not_selector)
    namespaces = step(pointer, "namespaceSelector")
    check.selector(found, namespaces, entity.namespace_selector, may_be_global=True)
    nets, not_nets = step(pointer, "nets"), step(pointer, "notNets")
    return replace(
        entity,
        nets=check.cidrs(found, nets, entity.nets, ip_version=ip_version),
        not_nets=check.cidrs(found, not_nets, entity.not_nets, ip_version=ip_version),
        ports=_ports(found, step(pointer, "ports"), entity.ports),
        not_ports=_ports(found, step(pointer, "notPorts"), entity.not_ports),
    )


def _ports(found: Findings, pointer: str, given: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(_port(found, step(pointer, index), port) for index, port in enumerate(given))


def _port(found: Findings, pointer: str, port: int | str) -> int | str:
    """Return a number, "first:last", or a name; a range of one is a number."""
    found_range = _RANGE.fullmatch(port if isinstance(port, str) else str(port))
    if found_range:
        first, last = int(found_range[1]), int(found_range[2] or found_range[1])
        if first <= last <= _MAX_PORT:
            return first if first == last else f"{first}:{last}"
        what = "ends before it begins" if first > last else f"is above {_MAX_PORT}"
        found.add(pointer, f"Port {port} {what}; use a number or first:last.")
    elif not (isinstance(port, str) and resource_names.valid_port_name(port)):
        reason = f"{str(port)[:32]!r} is not a port: use a number, first:last, or a port's name."
        found.add(pointer, reason)
    return port
