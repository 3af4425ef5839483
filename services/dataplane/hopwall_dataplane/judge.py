"""What the policies say of one packet: the meaning of the rendered lines, without a kernel.

Pure. It refuses to know what is rendered how, and must agree with it: a rule that has no line in a family
matches nothing here, and a policy that is rendered closed denies.

Source: `iptables/render_policy.py`, `classes.render_class`; iptables(8), iptables-extensions(8).
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from hopwall_dataplane.classes import tier_default, tier_policies
from hopwall_dataplane.iptables.render_policy import Direction, rules_of
from hopwall_model import protocols
from hopwall_model.updates import (
    Entity,
    PolicyId,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetId,
    TierPolicies,
)

Side = Literal["source", "destination"]
Decision = Literal["allow", "deny", "undecided"]


@dataclass(frozen=True, slots=True)
class Packet:
    """What rules look at of a packet: the first of a flow, as the filter table sees it (after DNAT).

    Shape: addresses are bare canonical text; ports are 0 where the protocol has none.
    """

    version: int
    protocol: int
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None


#: Whether a set holds one side of a packet; None for a set rules may not rely on. Of a set of kind "port" it
#: tells whether (address, protocol, port) is in it.
Sets = Callable[[SetId, Packet, Side], bool | None]

_ICMP: Final = {4: protocols.ICMP, 6: protocols.ICMPV6}


def decide(
    tiers: tuple[TierPolicies, ...],
    profiles: tuple[PolicyId, ...],
    direction: Direction,
    packet: Packet,
    policies: Mapping[PolicyId, PolicySet],
    sets: Sets,
) -> Decision:
    """Say what becomes of a packet: tier by tier, then the profiles.

    Returns "undecided" only where no tier decided and there are no profiles: for a workload that is a deny.

    Cost: O(rules that apply); at the worst each is looked at twice.
    """
    for tier in tiers:
        names = tier_policies(tier, direction)
        verdict: str | None = None
        for name in names:
            verdict = _by_policy(policies.get(name), direction, packet, sets)
            if verdict == "allow":
                return "allow"
            if verdict == "deny":
                return "deny"
            if verdict == "pass":
                break
        if names and verdict is None and tier_default(tier, direction) == "deny":
            return "deny"
    for name in profiles:
        verdict = _by_policy(policies.get(name), direction, packet, sets)
        if verdict == "allow":
            return "allow"
        if verdict == "deny":
            return "deny"
    return "deny" if profiles else "undecided"


def _by_policy(
    policy: PolicySet | None, direction: Direction, packet: Packet, sets: Sets
) -> Literal["allow", "deny", "pass"] | None:
    """Return the verdict of the first rule that matches; a policy that cannot be trusted denies."""
    if policy is None:
        return "deny"
    rules = rules_of(policy, direction)
    for rule in rules:
        if _names_unknown(rule.source, "source", packet, sets) or _names_unknown(
            rule.destination, "destination", packet, sets
        ):
            return "deny"
    for rule in rules:
        if rule.action != "log" and _matches(rule, packet, sets):
            return rule.action
    return None


def _names_unknown(entity: Entity, side: Side, packet: Packet, sets: Sets) -> bool:
    named = entity.sets + entity.not_sets + entity.port_sets + entity.not_port_sets
    return bool(named) and any(sets(name, packet, side) is None for name in named)


def _matches(rule: ResolvedRule, packet: Packet, sets: Sets) -> bool:
    return (
        (rule.ip_version is None or rule.ip_version == packet.version)
        and _protocol_matches(rule, packet)
        and _icmp_matches(rule, packet)
        and _side_matches(rule.source, "source", packet, sets)
        and _side_matches(rule.destination, "destination", packet, sets)
    )


def _protocol_matches(rule: ResolvedRule, packet: Packet) -> bool:
    """Tell whether the protocol holds; an IPv6 extension header is none of a packet that is judged here."""
    wanted = rule.protocol
    if wanted is not None:
        if wanted == _ICMP[10 - packet.version]:
            return False  # the other family's ICMP
        return wanted == packet.protocol and wanted != rule.not_protocol
    return rule.not_protocol is None or rule.not_protocol != packet.protocol


def _icmp_matches(rule: ResolvedRule, packet: Packet) -> bool:
    if rule.icmp_type is None and rule.not_icmp_type is None:
        return True
    if packet.protocol != _ICMP[packet.version]:
        return False
    if rule.icmp_type is not None and not _is_icmp(packet, rule.icmp_type, rule.icmp_code):
        return False
    return rule.not_icmp_type is None or not _is_icmp(
        packet, rule.not_icmp_type, rule.not_icmp_code
    )


def _is_icmp(packet: Packet, kind: int, code: int | None) -> bool:
    return packet.icmp_type == kind and (code is None or packet.icmp_code == code)


def _side_matches(entity: Entity, side: Side, packet: Packet, sets: Sets) -> bool:
    if entity == _ANYONE:
        return True
    address = packet.source if side == "source" else packet.destination
    return (
        (entity.net is None or contains(entity.net, address))
        and (entity.not_net is None or not contains(entity.not_net, address))
        and all(sets(name, packet, side) for name in entity.sets)
        and not any(sets(name, packet, side) for name in entity.not_sets)
        and _ports_match(entity, side, packet, sets)
    )


_ANYONE: Final = Entity()


def _ports_match(entity: Entity, side: Side, packet: Packet, sets: Sets) -> bool:
    if (entity.ports or entity.port_sets) and not (
        _is_port_in(entity.ports, side, packet)
        or any(sets(name, packet, side) for name in entity.port_sets)
    ):
        return False
    return not (
        _is_port_in(entity.not_ports, side, packet)
        or any(sets(name, packet, side) for name in entity.not_port_sets)
    )


def _is_port_in(ports: tuple[PortRange, ...], side: Side, packet: Packet) -> bool:
    if not ports or not protocols.has_ports(packet.protocol):
        return False
    port = packet.source_port if side == "source" else packet.destination_port
    return any(one.first <= port <= one.last for one in ports)


# ---------------------------------------------------------------- addresses as numbers


def contains(cidr: str, address: str) -> bool:
    """Tell whether a CIDR contains a bare address; never one of the other family."""
    version, network, shift = _network(cidr)
    found, number = numbered(address)
    return version == found and number >> shift == network


@lru_cache(maxsize=4096)
def _network(cidr: str) -> tuple[int, int, int]:
    """Return the version, the network's bits as a number, and how many bits follow them."""
    address, _, length = cidr.partition("/")
    version, number = number_of(address)
    shift = (32 if version == 4 else 128) - int(length)
    return version, number >> shift, shift


def number_of(address: str) -> tuple[int, int]:
    """Return the version of an address in canonical text, and the address as a number."""
    if ":" in address:
        return 6, int(ipaddress.IPv6Address(address))
    first, second, third, last = address.split(".")
    return 4, int(first) << 24 | int(second) << 16 | int(third) << 8 | int(last)


#: The same for the few addresses that are asked about again and again while one packet is judged.
numbered = lru_cache(maxsize=1024)(number_of)
