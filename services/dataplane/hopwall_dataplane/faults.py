"""What of an update must not be let near the kernel: one sentence for people, or "" when all is well.

calc sends only what it has checked; this is the wall behind it. What is faulty is closed by itself: it
must neither reach the text of a rule, nor an interface that is not a workload's, nor end the agent.

Pure.
"""

import re
from collections.abc import Container, Iterable

from hopwall_dataplane.ipsets.codec import stands_as_it_is
from hopwall_model.cidr import Cidr, is_host_cidr, parse_cidr
from hopwall_model.names import valid_ifname
from hopwall_model.protocols import ICMP, ICMPV6, has_ports
from hopwall_model.updates import (
    EndpointSet,
    Entity,
    PolicySet,
    ResolvedRule,
    RoutesBucket,
    SetBucket,
    SetKind,
)

#: Names that the kernel's settings use beside those of interfaces.
_NOT_INTERFACES = ("all", "default", "lo")
_SERVICE = re.compile(r"([0-9a-f.:]+),([1-9][0-9]{0,2}):([1-9][0-9]{0,4})")
#: Sets on one side of a rule: calc writes at most two of each sign; a line has room for these.
MAX_SETS = 8


def endpoint_fault(
    endpoint: EndpointSet, prefixes: tuple[str, ...], reserved: Container[str] = ()
) -> str:
    """Say why an endpoint must stay closed: most of all, an interface whose packets nobody filters."""
    name = endpoint.interface
    if not valid_ifname(name) or name in _NOT_INTERFACES:
        return f"{name!r} cannot be the name of a workload's interface."
    if not name.startswith(prefixes):
        known = ", ".join(prefixes)
        return (
            f"Interface {name} is not filtered on this host: its name begins with none of {known}. "
            "Rename it, or add its prefix to interface_prefixes."
        )
    for cidr in endpoint.addresses:
        if not is_address(cidr):
            return f"{cidr!r} is not a workload's address."
        if cidr in reserved:
            return reserved_fault(cidr)
    for cidr in endpoint.extra_sources:
        if not _is_canonical(cidr):
            return f"{cidr!r} is not a network."
    return ""


def reserved_fault(cidr: str) -> str:
    """Say that an address is one the host lives by."""
    return f"{cidr} is an address that hosts reach their gateway, NATS or each other at."


def policy_fault(policy: PolicySet) -> str:
    """Say why a policy cannot be rendered: its text would be other than a rule, or mean something else."""
    for rule in (*policy.ingress, *policy.egress):
        fault = (
            _rule_fault(rule)
            or _side_fault(rule, rule.source)
            or _side_fault(rule, rule.destination)
        )
        if fault:
            return f"{fault[:-1]} in rule {rule.id}."
    return ""


def _rule_fault(rule: ResolvedRule) -> str:
    for number in (rule.protocol, rule.not_protocol):
        if number is not None and not 0 <= number <= 255:
            return f"{number} is not a protocol."
    for kind, code in (
        (rule.icmp_type, rule.icmp_code),
        (rule.not_icmp_type, rule.not_icmp_code),
    ):
        if kind is None and code is None:
            continue
        if rule.protocol not in (ICMP, ICMPV6):
            return "An ICMP type has no ICMP protocol beside it."
        # To iptables type 255 is any type (linux/icmp.h knows none of that number).
        if kind is None or not 0 <= kind <= 254 or not 0 <= (code or 0) <= 255:
            return f"{kind}/{code} is not an ICMP type."
    return ""


def _side_fault(rule: ResolvedRule, side: Entity) -> str:
    for cidr in (side.net, side.not_net):
        if cidr is not None and not _is_canonical(cidr):
            return f"{cidr!r} is not a network."
    for port in (*side.ports, *side.not_ports):
        if not 0 <= port.first <= port.last <= 65535:
            return f"{port.first}:{port.last} is not a range of ports."
    numbered = side.ports or side.not_ports
    if numbered and (rule.protocol is None or not has_ports(rule.protocol)):
        return "A port has no protocol with ports beside it."
    if len(side.sets) + len(side.not_sets) > MAX_SETS:
        return f"A side has more than {MAX_SETS} sets."
    return ""


def bucket_fault(piece: SetBucket | RoutesBucket) -> str:
    """Say why a bucket has no place in its scope."""
    if 0 <= piece.bucket < piece.n_buckets:
        return ""
    return f"There is no bucket {piece.bucket} of {piece.n_buckets}."


def members_fault(kind: SetKind, members: Iterable[str]) -> str:
    """Say why what a bucket brings cannot be in a kernel set.

    Other text of the same meaning is a fault too: it would be read back as another element, and that one
    be taken out.

    Cost: about 1 µs a member.
    """
    if kind == "net":
        wrong = [member for member in members if not stands_as_it_is(member)]
        what = "a network as sets hold it"
    else:
        wrong = [member for member in members if not _is_service(member)]
        what = "an address with a protocol and a port"
    return f"{min(wrong)[:64]!r} is not {what}." if wrong else ""


def _is_service(member: str) -> bool:
    found = _SERVICE.fullmatch(member)
    if not found or not has_ports(int(found[2])) or int(found[3]) > 65535:
        return False
    return stands_as_it_is(f"{found[1]}/128" if ":" in found[1] else f"{found[1]}/32")


def is_address(cidr: str) -> bool:
    """Tell whether the text is a single address as calc writes it, with its prefix length."""
    return is_host_cidr(Cidr(cidr)) and _is_canonical(cidr)


def _is_canonical(cidr: str) -> bool:
    try:
        return parse_cidr(cidr) == cidr
    except ValueError:
        return False
