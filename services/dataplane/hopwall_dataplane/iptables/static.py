"""The chains that do not depend on policy: where packets enter, and what becomes of strangers.

The path of a new packet from a workload to a workload of the same host:

    raw     PREROUTING  → hw-PREROUTING → hw-antispoof      (source, interface) must be in hw?-from
                          → hw-errors (ICMP alone)          an error must be about what its sender was sent
    mangle  FORWARD     → hw-FORWARD → hw-mark              addresses → classes, in the mark
    filter  FORWARD     → hw-FORWARD → hw-known             established: accepted here
                          → hw-from (tree) → egress chain of the source's class → policies
                            → hw-allowed: marks the packet as allowed, and back
                          → hw-to (tree) → ingress chain of the destination's class → policies

What host endpoints add is called from here where it exists, and drawn in `host_chains.py`.

Closed by construction: every tree and every class chain ends in a drop, an allow needs a rule that says so,
and a workload interface nobody declared has no element in hw?-from. Whoever comes back from hw-from without
the mark of an allow, or from hw-to at all, is dropped: also where others have emptied a chain of ours.

Pure. Source: iptables(8), iptables-extensions(8) (SET --map-mark: mangle only), RFC 4861 (neighbour
discovery), RFC 4890 (what ICMPv6 must pass).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hopwall_dataplane.failsafe import Failsafe
from hopwall_dataplane.iptables.identity import (
    ANTI_SPOOF,
    EARLY_ERROR,
    FLOW_LIMIT,
    FOREIGN_ERROR,
    INVALID,
    REVOKED,
    TO_HOST,
    Denial,
)
from hopwall_dataplane.iptables.nflog import LogSettings, denial
from hopwall_dataplane.iptables.quotes import ABOUT_ITS_OWN
from hopwall_dataplane.iptables.table import Jump, TableName, bearing
from hopwall_dataplane.marks import MarkLayout
from hopwall_dataplane.outcome import Family

FORWARD = "hw-FORWARD"
INPUT = "hw-INPUT"
PREROUTING = "hw-PREROUTING"
OUTPUT = "hw-OUTPUT"
FROM_TREE = "hw-from"
TO_TREE = "hw-to"
ALLOWED = "hw-allowed"
KNOWN = "hw-known"
ERRORS = "hw-errors"
#: Where host endpoints' chains are found by interface; each is there while a host endpoint needs it.
HOST_INPUT = "hw-host-in"
HOST_OUTPUT = "hw-host-out"
HOST_FORWARD_IN = "hw-host-forward-in"
HOST_FORWARD_OUT = "hw-host-forward-out"
HOST_PRE_DNAT = "hw-host-pre-dnat"
HOST_UNTRACKED_IN = "hw-host-untracked-in"
HOST_UNTRACKED_OUT = "hw-host-untracked-out"

#: Router and neighbour solicitation, neighbour advertisement: what a workload needs to find its next hop.
_ASKING_TYPES = (133, 135)
_ADVERTISEMENT = 136
_ND_TYPES = (*_ASKING_TYPES, _ADVERTISEMENT)
#: Echo, listeners and the messages of mobility: what may stand behind extension headers, as what listeners say always
#: does, and is no error (RFC 4890, 4.3; RFC 3810, 5).
_INFORMATIONAL = (128, 129, 130, 131, 132, 143, 144, 145, 146, 147)

_ICMP = {Family.V4: "icmp", Family.V6: "ipv6-icmp"}

#: What the kernel sends of itself before any line of ours has seen the packet that it is about: fragments that were
#: not all there in time, and of IPv6 hop-by-hop options it does not like. Whoever wrote a foreign source is as good as
#: the sender of that error. No path needs them; other errors of the host come after our lines.
#: Source: ip6_parse_tlv() in net/ipv6/exthdrs.c, ip_expire() in net/ipv4/ip_fragment.c, ip6frag_expire_frag_queue().
_EARLY_ERRORS = {
    Family.V4: ("-p icmp -m icmp --icmp-type 11/1",),
    Family.V6: tuple(f"-p ipv6-icmp -m icmp6 --icmpv6-type {n}" for n in ("3/1", "4/0", "4/2")),
}

WorkloadToHost = Literal["drop", "accept", "return"]


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What rendering depends on besides the desired state."""

    marks: MarkLayout
    prefixes: tuple[str, ...]
    workload_to_host: WorkloadToHost = "drop"
    log: LogSettings = field(default_factory=LogSettings)
    #: Whether flows that are established end when policy comes to deny them.
    revoke_flows: bool = True
    #: How many tracked flows each address of a workload may have begun; 0 for any number.
    max_flows: int = 0
    #: Whether an ICMP error must be about a packet that its sender was sent; the kernel needs xt_bpf.
    check_errors: bool = True
    #: How many solicitations a second link-local addresses of all workloads together may send the host.
    askers_rate: int = 50
    #: What no host endpoint closes, to the host and from it.
    failsafe_in: tuple[Failsafe, ...] = ()
    failsafe_out: tuple[Failsafe, ...] = ()


def from_set(family: Family) -> str:
    """Name the set of (source, interface) that are genuine, mapped to the source's class."""
    return f"hw{family[1]}-from"


def to_set(family: Family) -> str:
    """Name the set of local workload addresses, mapped to the destination's class."""
    return f"hw{family[1]}-to"


def relay_set(family: Family) -> str:
    """Name the set of (source, interface) of who may send for others, and so reports on their packets."""
    return f"hw{family[1]}-relay"


#: All sets that tell whose an address is, and who may send for others.
IDENTITY_SETS = frozenset(
    name(family) for family in Family for name in (from_set, relay_set, to_set)
)

JUMPS: Mapping[TableName, tuple[Jump, ...]] = {
    "raw": (Jump("PREROUTING", PREROUTING), Jump("OUTPUT", OUTPUT)),
    "mangle": (Jump("FORWARD", FORWARD), Jump("INPUT", INPUT)),
    "filter": (Jump("FORWARD", FORWARD), Jump("INPUT", INPUT)),
    "nat": (),
}

#: The order in which tables are first set up: the one that drops strangers comes first.
TABLES: tuple[TableName, ...] = ("filter", "mangle", "raw", "nat")

#: What leads to host endpoints' chains straight from a kernel chain.
HOST_JUMPS: Mapping[TableName, Mapping[str, Jump]] = {
    "raw": {HOST_UNTRACKED_OUT: Jump("OUTPUT", HOST_UNTRACKED_OUT)},
    "mangle": {HOST_PRE_DNAT: Jump("PREROUTING", HOST_PRE_DNAT)},
    "filter": {HOST_OUTPUT: Jump("OUTPUT", HOST_OUTPUT)},
}


def static_chains(
    family: Family, settings: RenderSettings, hosts: Collection[str] = ()
) -> dict[TableName, dict[str, tuple[str, ...]]]:
    """Return the chains of each table that no policy changes; `hosts` are the `HOST_` chains there are."""
    return {
        "raw": _raw(family, settings, hosts),
        "mangle": _mangle(family, settings),
        "filter": _filter(family, settings, hosts),
        "nat": {},
    }


def allowed_chain(settings: RenderSettings) -> dict[str, tuple[str, ...]]:
    """Return the chain that marks a packet as allowed; every table with policies in it has one."""
    # The bit of Pass may be set by a rule that works in two steps (render_policy): it ends here.
    marks = settings.marks
    return {ALLOWED: (f"-j MARK --set-xmark {marks.allowed:#x}/{marks.allowed | marks.passed:#x}",)}


def _to_host(settings: RenderSettings) -> tuple[str, ...]:
    if settings.workload_to_host == "drop":
        return denial(TO_HOST, settings.log)
    return ("-j ACCEPT" if settings.workload_to_host == "accept" else "-j RETURN",)


def _allowed(settings: RenderSettings) -> str:
    return f"{settings.marks.allowed:#x}/{settings.marks.allowed:#x}"


def _call(hosts: Collection[str], chain: str) -> tuple[str, ...]:
    return (f"-j {chain}",) if chain in hosts else ()


def _per_prefix(settings: RenderSettings, side: str, action: str) -> tuple[str, ...]:
    return tuple(f"{side} {prefix}+ {action}" for prefix in settings.prefixes)


def _raw(
    family: Family, settings: RenderSettings, hosts: Collection[str]
) -> dict[str, tuple[str, ...]]:
    exempt = _discovery(settings) if family is Family.V6 else ()
    return {
        PREROUTING: (
            *_per_prefix(settings, "-i", "-g hw-antispoof"),
            *_call(hosts, HOST_UNTRACKED_IN),
        ),
        "hw-antispoof": (
            *exempt,
            *((f"-p {_ICMP[family]} -j {ERRORS}",) if settings.check_errors else ()),
            f"-m set --match-set {from_set(family)} src,src -j RETURN",
            *denial(ANTI_SPOOF, settings.log),
        ),
        **({ERRORS: _errors(family, settings)} if settings.check_errors else {}),
        OUTPUT: tuple(
            line
            for error in _EARLY_ERRORS[family]
            for line in denial(EARLY_ERROR, settings.log, error)
        ),
    }


def _discovery(settings: RenderSettings) -> tuple[str, ...]:
    """Return what lets neighbour discovery by, from addresses that nobody declares.

    Link-local sources speak it to the host; nothing else of theirs is genuine. Each that asks makes an entry in
    the kernel's table of neighbours, and a workload has as many as it likes. The unspecified address is the
    source of duplicate address detection (RFC 4862, 5.4.2), which makes none, as an answer makes none.
    """
    rate = settings.askers_rate
    asks = f"-m limit --limit {rate}/second --limit-burst {2 * rate} -j RETURN"
    return (
        *(f"-s fe80::/10 {_icmpv6(number)} {asks}" for number in _ASKING_TYPES),
        f"-s fe80::/10 {_icmpv6(_ADVERTISEMENT)} -j RETURN",
        f"-s ::/128 {_icmpv6(135)} -j RETURN",
    )


def _errors(family: Family, settings: RenderSettings) -> tuple[str, ...]:
    """Return what drops errors about the packets of others: conntrack takes them for RELATED, whoever sent them.

    Here addresses are still as the sender wrote them, in the header and in the quote.
    """
    behind_headers = _INFORMATIONAL if family is Family.V6 else ()
    return (
        f'-m bpf --bytecode "{ABOUT_ITS_OWN[family]}" -j RETURN',
        *(f"{_icmpv6(number)} -j RETURN" for number in behind_headers),
        f"-m set --match-set {relay_set(family)} src,src -j RETURN",
        *denial(FOREIGN_ERROR, settings.log),
    )


def _mangle(family: Family, settings: RenderSettings) -> dict[str, tuple[str, ...]]:
    marks = settings.marks
    clear = f"-j MARK --set-xmark 0x0/{marks.mask:#x}"
    # From beyond the host: a host endpoint may have allowed the packet before its address was translated.
    clear_but_allowed = f"-j MARK --set-xmark 0x0/{marks.mask & ~marks.allowed:#x}"
    destination = f"-j SET --map-set {to_set(family)} dst --map-mark"
    source = f"-j SET --map-set {from_set(family)} src,src --map-mark"
    known = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    return {
        FORWARD: (
            *_per_prefix(settings, "-i", "-g hw-mark"),
            *_per_prefix(settings, "-o", "-g hw-mark-to"),
        ),
        "hw-mark": (
            known,
            clear,
            source,
            destination,
        ),
        "hw-mark-to": (
            known,
            clear_but_allowed,
            destination,
        ),
        INPUT: _per_prefix(settings, "-i", "-g hw-mark-to-host"),
        "hw-mark-to-host": (
            known,
            clear,
            source,
        ),
    }


def _filter(
    family: Family, settings: RenderSettings, hosts: Collection[str]
) -> dict[str, tuple[str, ...]]:
    marks = settings.marks
    revoked = f"-m connmark --mark {marks.revoked:#x}/{marks.revoked:#x}"
    known = (
        # One line only, as every established packet meets it.
        *((f"{revoked} -g hw-revoked",) if settings.revoke_flows else ()),
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        *denial(INVALID, settings.log, "-m conntrack --ctstate INVALID"),
    )
    limited = _flow_limit(family, settings)
    not_allowed = f"-m mark ! --mark {_allowed(settings)} {_undecided('egress')}"
    discovery = (
        tuple(f"{_icmpv6(number)} -j ACCEPT" for number in _ND_TYPES) if family is Family.V6 else ()
    )
    by_host = {HOST_FORWARD_IN, HOST_FORWARD_OUT, HOST_PRE_DNAT} & {*hosts}
    return {
        # No chain with classes behind it is reached from another such chain: nft walks every path anew at
        # each transaction, and one tree behind each leaf of the other would square the walk. The same
        # holds for the lists of host endpoints.
        FORWARD: (
            *_per_prefix(settings, "-i", f"-j {KNOWN}"),
            *_per_prefix(settings, "-o", f"-j {KNOWN}"),
            # Answers too, whichever way the lists of host endpoints go.
            *((f"{revoked} -g hw-revoked",) if by_host and settings.revoke_flows else ()),
            *(line for limit in limited for line in _per_prefix(settings, "-i", limit)),
            *_call(hosts, HOST_FORWARD_IN),
            *_per_prefix(settings, "-i", f"-j {FROM_TREE}"),
            *_per_prefix(settings, "-i", not_allowed),
            *_call(hosts, HOST_FORWARD_OUT),
            *_per_prefix(settings, "-o", f"-j {TO_TREE}"),
            *_per_prefix(settings, "-o", _undecided("ingress")),
            *_per_prefix(settings, "-i", "-j ACCEPT"),
            # From one of the host's own interfaces to another: what host endpoints allowed.
            *((f"-m mark --mark {_allowed(settings)} -j ACCEPT",) if by_host else ()),
        ),
        KNOWN: known,
        "hw-revoked": denial(REVOKED, settings.log),
        **({"hw-flow-limit": denial(FLOW_LIMIT, settings.log)} if limited else {}),
        INPUT: (*_per_prefix(settings, "-i", "-g hw-input"), *_call(hosts, HOST_INPUT)),
        "hw-input": (
            *discovery,
            *known,
            *limited,
            f"-j {FROM_TREE}",
            not_allowed,
            *_to_host(settings),
        ),
        **allowed_chain(settings),
    }


def _flow_limit(family: Family, settings: RenderSettings) -> tuple[str, ...]:
    """Return what follows the interface on the line that stops new flows of who has too many.

    Behind the lines for what is established, so only the first packet of a flow is counted; a flow that is
    dropped here, or later, is not tracked and does not count.
    """
    if not settings.max_flows:
        return ()
    length = 32 if family is Family.V4 else 128
    limit = f"--connlimit-above {settings.max_flows} --connlimit-mask {length} --connlimit-saddr"
    return (f"-m connlimit {limit} -g hw-flow-limit",)


def _undecided(direction: Literal["egress", "ingress"]) -> str:
    """Return the drop of what comes back from a tree without a verdict, which only damage lets happen."""
    return bearing("-j DROP", Denial("undecided", direction).origin.identity)


def _icmpv6(number: int) -> str:
    return f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}"
