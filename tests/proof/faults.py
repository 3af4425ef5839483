"""Faults that rendering could have, each seeded between two stages: the rig must see every one of them."""

import re
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from hopwall_model.updates import (
    EndpointSet,
    Entity,
    HostEndpointSet,
    PolicySet,
    PortRange,
    ResolvedRule,
    SetBucket,
    TierPolicies,
    Update,
)
from tests.proof.pipeline import Tamper

Change = Callable[[ResolvedRule], ResolvedRule]


def in_policies(change: Callable[[PolicySet], PolicySet]) -> Tamper:
    """Change every policy on its way."""
    return Tamper(update=lambda u: change(u) if isinstance(u, PolicySet) else u)


def in_rules(change: Change) -> Tamper:
    """Change every rule of every policy."""

    def policy(given: PolicySet) -> PolicySet:
        ingress, egress = (
            tuple(change(r) for r in rules) for rules in (given.ingress, given.egress)
        )
        return replace(given, ingress=ingress, egress=egress)

    return in_policies(policy)


def in_sides(change: Callable[[Entity], Entity]) -> Tamper:
    """Change both sides of every rule."""
    return in_rules(
        lambda r: replace(r, source=change(r.source), destination=change(r.destination))
    )


def in_endpoints(change: Callable[[EndpointSet], EndpointSet]) -> Tamper:
    """Change every endpoint on its way."""
    return Tamper(update=lambda u: change(u) if isinstance(u, EndpointSet) else u)


def in_tiers(change: Callable[[TierPolicies], TierPolicies]) -> Tamper:
    """Change every tier of every endpoint."""
    return in_endpoints(lambda e: replace(e, tiers=tuple(change(t) for t in e.tiers)))


def in_sets(change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Tamper:
    """Change the members of every bucket."""

    def bucket(update: Update) -> Update:
        if not isinstance(update, SetBucket):
            return update
        return replace(update, members=change(update.members))

    return Tamper(update=bucket)


def in_lines(change: Callable[[str], str | None]) -> Tamper:
    """Change every line of every table; None takes it away."""

    def table(text: str) -> str:
        changed = (change(line) for line in text.splitlines())
        return "\n".join(line for line in changed if line is not None)

    return Tamper(lines=table)


def _but_last(ports: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
    return ports[:-1] or ports


def _one_short(ports: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
    return tuple(PortRange(p.first, max(p.first, p.last - 1)) for p in ports)


def _profiles_first(endpoint: EndpointSet) -> EndpointSet:
    profiles = TierPolicies(
        name="",
        ingress=endpoint.profiles,
        egress=endpoint.profiles,
        ingress_default="pass",
        egress_default="pass",
    )
    return replace(endpoint, tiers=(profiles, *endpoint.tiers))


def _only_logs_closes(tier: TierPolicies) -> TierPolicies:
    closes = tier.name in ("default", "absent")  # whose own default is to deny
    return replace(tier, ingress_default="deny", egress_default="deny") if closes else tier


def _without(line: str, *words: str) -> str | None:
    return None if all(word in line for word in words) else line


def _leaves_swapped(text: str) -> str:
    """Let two leaves of a tree lead to each other's class."""
    leaves = re.findall(r"-g (hw-cf\S+)", text)
    if len(leaves) < 2:
        return text
    one, other = leaves[0], leaves[1]
    return re.sub(rf"-g ({one}|{other}) ", lambda m: f"-g {other if m[1] == one else one} ", text)


def _rule(**changes: Any) -> Change:
    return lambda rule: replace(rule, **changes)


def _needs_no_protocol(rule: ResolvedRule) -> bool:
    sides = (rule.source, rule.destination)
    ports = any(side.ports or side.not_ports for side in sides)
    return not ports and rule.icmp_type is None and rule.not_icmp_type is None


def _where(holds: Callable[[ResolvedRule], bool], **changes: Any) -> Change:
    return lambda rule: replace(rule, **changes) if holds(rule) else rule


FAULTS: dict[str, Tamper] = {
    "rules in the wrong order": in_policies(
        lambda p: replace(p, ingress=p.ingress[::-1], egress=p.egress[::-1])
    ),
    "directions swapped": in_policies(lambda p: replace(p, ingress=p.egress, egress=p.ingress)),
    "source and destination swapped": in_rules(
        lambda r: replace(r, source=r.destination, destination=r.source)
    ),
    "the last rule lost": in_policies(lambda p: replace(p, ingress=p.ingress[:-1])),
    "pass taken for allow": in_rules(_where(lambda r: r.action == "pass", action="allow")),
    "log taken for allow": in_rules(_where(lambda r: r.action == "log", action="allow")),
    "log taken for deny": in_rules(_where(lambda r: r.action == "log", action="deny")),
    "protocol lost": in_rules(_where(_needs_no_protocol, protocol=None)),
    "excluded protocol lost": in_rules(_rule(not_protocol=None)),
    "ICMP code lost": in_rules(_rule(icmp_code=None)),
    "ICMP type lost": in_rules(_rule(icmp_type=None, icmp_code=None)),
    "excluded ICMP lost": in_rules(_rule(not_icmp_type=None, not_icmp_code=None)),
    "family lost": in_rules(_rule(ip_version=None)),
    "net lost": in_sides(lambda e: replace(e, net=None)),
    "excluded net lost": in_sides(lambda e: replace(e, not_net=None)),
    "selection lost": in_sides(lambda e: replace(e, sets=())),
    "exclusion lost": in_sides(lambda e: replace(e, not_sets=())),
    "one of two sets lost": in_sides(lambda e: replace(e, sets=e.sets[:1])),
    "the last ports lost": in_sides(lambda e: replace(e, ports=_but_last(e.ports))),
    "ranges one port short": in_sides(lambda e: replace(e, ports=_one_short(e.ports))),
    "excluded ports lost": in_sides(lambda e: replace(e, not_ports=())),
    "the last excluded ports lost": in_sides(
        lambda e: replace(e, not_ports=_but_last(e.not_ports))
    ),
    "named ports lost": in_sides(lambda e: replace(e, port_sets=())),
    "excluded named ports lost": in_sides(lambda e: replace(e, not_port_sets=())),
    "named ports of the other end": in_lines(
        lambda line: re.sub(r"(--match-set \S+) dst,dst", r"\1 src,src", line)
    ),
    "named ports of another protocol": in_sets(
        lambda members: tuple(m.replace(",6:", ",17:") for m in members)
    ),
    "protocol 0 taken for any": in_lines(lambda line: re.sub(r"-m u32 \S* ?--u32 \S+ ", "", line)),
    "the mark of a step left set": in_lines(
        lambda line: _without(line, "-A hw-p", "-j MARK --set-xmark 0x0/0x200")
    ),
    "only logs closes": in_tiers(_only_logs_closes),
    "a set lacks a member": in_sets(lambda members: members[:-1]),
    "sets are empty": in_sets(lambda members: ()),
    "a set has no IPv6 member": in_sets(lambda ms: tuple(m for m in ms if ":" not in m)),
    "profiles skipped": in_endpoints(lambda e: replace(e, profiles=())),
    "profiles in the wrong order": in_endpoints(lambda e: replace(e, profiles=e.profiles[::-1])),
    "profiles before tiers": in_endpoints(_profiles_first),
    "tiers in the wrong order": in_endpoints(lambda e: replace(e, tiers=e.tiers[::-1])),
    "only the first tier": in_endpoints(lambda e: replace(e, tiers=e.tiers[:1])),
    "policies in the wrong order": in_tiers(
        lambda t: replace(t, ingress=t.ingress[::-1], egress=t.egress[::-1])
    ),
    "the end of a tier lost": in_tiers(
        lambda t: replace(t, ingress_default="pass", egress_default="pass")
    ),
    "the end of a tier always closed": in_tiers(
        lambda t: replace(t, ingress_default="deny", egress_default="deny")
    ),
    "a tier of one direction taken for both": in_tiers(
        lambda t: replace(t, ingress=t.ingress or t.egress, egress=t.egress or t.ingress)
    ),
    "sources nobody may use let in": in_lines(
        lambda line: _without(line, "-A hw-antispoof", "-j DROP")
    ),
    "new flows taken for established": in_lines(
        lambda line: line.replace("RELATED,ESTABLISHED -j ACCEPT", "NEW,ESTABLISHED -j ACCEPT")
    ),
    "established flows judged anew": in_lines(
        lambda line: _without(line, "ESTABLISHED", "-j ACCEPT")
    ),
    "invalid packets let in": in_lines(lambda line: _without(line, "INVALID", "-j DROP")),
    "an egress allow that accepts": in_lines(
        lambda line: line.replace("-g hw-allowed", "-j ACCEPT")
    ),
    "the mark of another's pass kept": in_lines(
        lambda line: _without(line, "-j MARK --set-xmark 0x0/0x200")
    ),
    "a leaf of the tree that leads to another class": Tamper(lines=_leaves_swapped),
    "no ingress at all": in_lines(lambda line: _without(line, "-A hw-FORWARD", "-j hw-to")),
    "a negation lost": in_lines(
        lambda line: line.replace("-m set ! --match-set", "-m set --match-set")
    ),
    "an excluded range lost": in_lines(
        lambda line: re.sub(r"-m iprange ! --(src|dst)-range \S+ ", "", line)
    ),
    "destinations looked up as sources": in_lines(
        lambda line: re.sub(r"(--match-set hw[46]-s-\S+) dst", r"\1 src", line)
    ),
    "addresses marked with no class": Tamper(
        sets=lambda text: re.sub(r"skbmark 0x\w+/", "skbmark 0x0/", text)
    ),
}


def in_host_endpoints(change: Callable[[HostEndpointSet], HostEndpointSet]) -> Tamper:
    """Change every host endpoint on its way."""
    return Tamper(update=lambda u: change(u) if isinstance(u, HostEndpointSet) else u)


def _goes_on(endpoint: HostEndpointSet) -> HostEndpointSet:
    tiers = tuple(
        replace(t, ingress_default="pass", egress_default="pass") for t in endpoint.forward
    )
    return replace(endpoint, forward=tiers)


#: Faults that only a host endpoint can show.
HOST_FAULTS: dict[str, Tamper] = {
    "host policies lost": in_host_endpoints(lambda e: replace(e, tiers=())),
    "host profiles lost": in_host_endpoints(lambda e: replace(e, profiles=())),
    "forward policies lost": in_host_endpoints(lambda e: replace(e, forward=())),
    "all host policies taken for forward ones": in_host_endpoints(
        lambda e: replace(e, forward=e.tiers)
    ),
    "only forward policies for the host itself": in_host_endpoints(
        lambda e: replace(e, tiers=e.forward)
    ),
    "forward tiers without an end": in_host_endpoints(_goes_on),
    "policies before DNAT lost": in_host_endpoints(lambda e: replace(e, pre_dnat=())),
    "policies before tracking lost": in_host_endpoints(lambda e: replace(e, untracked=())),
    "policies before DNAT taken for those before tracking": in_host_endpoints(
        lambda e: replace(e, pre_dnat=e.untracked, untracked=e.pre_dnat)
    ),
    "all interfaces taken for one": in_host_endpoints(
        lambda e: replace(e, interface="eth0") if e.interface == "*" else e
    ),
    "one interface taken for all": in_host_endpoints(
        lambda e: replace(e, interface="*") if e.interface else e
    ),
    "expected addresses lost": in_host_endpoints(
        lambda e: e if e.interface else replace(e, expected_ips=())
    ),
    "failsafe to the host lost": in_lines(lambda line: _without(line, "--dport 22", "-j")),
    "failsafe from the host lost": in_lines(lambda line: _without(line, "--dport 53", "-j")),
    "failsafe of any protocol": in_lines(
        lambda line: re.sub(r"-p tcp -m tcp --dport 22 ", "", line)
    ),
    "an earlier allow forgotten": in_lines(
        lambda line: (
            None
            if re.match(r"-A hw-h\S+ -m mark --mark 0x100/0x100.* -j (RETURN|ACCEPT)", line)
            else line
        )
    ),
    "nothing asked of what the host sends": in_lines(lambda line: _without(line, "-I OUTPUT")),
}


#: Faults that only the translation of addresses can show.
NAT_FAULTS: dict[str, Tamper] = {
    "floating addresses lost": in_endpoints(lambda e: replace(e, nats=())),
    "the last floating address lost": in_endpoints(lambda e: replace(e, nats=e.nats[:-1])),
    "no way back under the floating address": in_lines(
        lambda line: _without(line, "-j SNAT --to-source")
    ),
    "nothing hidden": in_lines(lambda line: _without(line, "-j MASQUERADE")),
    "hidden from other workloads too": in_lines(
        lambda line: re.sub(r"-m set ! --match-set \S+ dst (-j MASQ)", r"\1", line)
    ),
    "all pools hidden": in_lines(
        lambda line: re.sub(r"-m set --match-set \S+ src (.* -j MASQ)", r"\1", line)
    ),
    "floating addresses before what is no pool's only": in_lines(
        lambda line: re.sub(r"-m set ! --match-set \S+ dst (-j SNAT)", r"\1", line)
    ),
}
