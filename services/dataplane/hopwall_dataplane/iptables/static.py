"""The chains that do not depend on policy: where packets enter, and what becomes of strangers.

The path of a new packet from a workload to a workload of the same host:

    raw     PREROUTING  → hw-PREROUTING → hw-antispoof      (source, interface) must be in hw?-from
    mangle  FORWARD     → hw-FORWARD → hw-mark              addresses → classes, in the mark
    filter  FORWARD     → hw-FORWARD → hw-known             established: accepted here
                          → hw-from (tree) → egress chain of the source's class → policies
                            → hw-allowed: marks the packet as allowed, and back
                          → hw-to (tree) → ingress chain of the destination's class → policies

Closed by construction: every tree and every class chain ends in a drop, an allow needs a rule that says so,
and a workload interface nobody declared has no element in hw?-from. Whoever comes back from hw-from without
the mark of an allow, or from hw-to at all, is dropped: also where others have emptied a chain of ours.

Pure. Source: iptables(8), iptables-extensions(8) (SET --map-mark: mangle only), RFC 4861 (neighbour
discovery), RFC 4890 (what ICMPv6 must pass).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hopwall_dataplane.iptables.identity import ANTI_SPOOF, INVALID, REVOKED, TO_HOST, Denial
from hopwall_dataplane.iptables.nflog import LogSettings, denial
from hopwall_dataplane.iptables.table import Jump, TableName, bearing
from hopwall_dataplane.marks import MarkLayout
from hopwall_dataplane.outcome import Family

FORWARD = "hw-FORWARD"
INPUT = "hw-INPUT"
PREROUTING = "hw-PREROUTING"
FROM_TREE = "hw-from"
TO_TREE = "hw-to"
ALLOWED = "hw-allowed"
KNOWN = "hw-known"

#: Router and neighbour solicitation, neighbour advertisement: what a workload needs to find its next hop.
_ND_TYPES = (133, 135, 136)


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What rendering depends on besides the desired state."""

    marks: MarkLayout
    prefixes: tuple[str, ...]
    workload_to_host: Literal["drop", "accept"] = "drop"
    log: LogSettings = field(default_factory=LogSettings)
    #: Whether flows that are established end when policy comes to deny them.
    revoke_flows: bool = True


def from_set(family: Family) -> str:
    """Name the set of (source, interface) that are genuine, mapped to the source's class."""
    return f"hw{family[1]}-from"


def to_set(family: Family) -> str:
    """Name the set of local workload addresses, mapped to the destination's class."""
    return f"hw{family[1]}-to"


JUMPS: Mapping[TableName, tuple[Jump, ...]] = {
    "raw": (Jump("PREROUTING", PREROUTING),),
    "mangle": (Jump("FORWARD", FORWARD), Jump("INPUT", INPUT)),
    "filter": (Jump("FORWARD", FORWARD), Jump("INPUT", INPUT)),
}

#: The order in which tables are first set up: the one that drops strangers comes first.
TABLES: tuple[TableName, ...] = ("filter", "mangle", "raw")


def static_chains(
    family: Family, settings: RenderSettings
) -> dict[TableName, dict[str, tuple[str, ...]]]:
    """Return the chains of each table that no policy changes."""
    return {
        "raw": _raw(family, settings),
        "mangle": _mangle(family, settings),
        "filter": _filter(family, settings),
    }


def _per_prefix(settings: RenderSettings, side: str, action: str) -> tuple[str, ...]:
    return tuple(f"{side} {prefix}+ {action}" for prefix in settings.prefixes)


def _raw(family: Family, settings: RenderSettings) -> dict[str, tuple[str, ...]]:
    exempt: Sequence[str] = ()
    if family is Family.V6:
        # Link-local sources speak neighbour discovery to the host; nothing else of theirs is genuine.
        # The unspecified address is the source of duplicate address detection (RFC 4862, 5.4.2).
        exempt = (
            *(f"-s fe80::/10 {_icmpv6(number)} -j RETURN" for number in _ND_TYPES),
            f"-s ::/128 {_icmpv6(135)} -j RETURN",
        )
    return {
        PREROUTING: _per_prefix(settings, "-i", "-g hw-antispoof"),
        "hw-antispoof": (
            *exempt,
            f"-m set --match-set {from_set(family)} src,src -j RETURN",
            *denial(ANTI_SPOOF, settings.log),
        ),
    }


def _mangle(family: Family, settings: RenderSettings) -> dict[str, tuple[str, ...]]:
    marks = settings.marks
    clear = f"-j MARK --set-xmark 0x0/{marks.mask:#x}"
    source = f"-j SET --map-set {from_set(family)} src,src --map-mark"
    known = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    return {
        FORWARD: (
            *_per_prefix(settings, "-i", "-g hw-mark"),
            *_per_prefix(settings, "-o", "-g hw-mark"),
        ),
        "hw-mark": (
            known,
            clear,
            source,
            f"-j SET --map-set {to_set(family)} dst --map-mark",
        ),
        INPUT: _per_prefix(settings, "-i", "-g hw-mark-to-host"),
        "hw-mark-to-host": (
            known,
            clear,
            source,
        ),
    }


def _filter(family: Family, settings: RenderSettings) -> dict[str, tuple[str, ...]]:
    marks = settings.marks
    allowed = f"{marks.allowed:#x}/{marks.allowed:#x}"
    revoked = f"-m connmark --mark {marks.revoked:#x}/{marks.revoked:#x}"
    known = (
        # One line only, as every established packet meets it.
        *((f"{revoked} -g hw-revoked",) if settings.revoke_flows else ()),
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        *denial(INVALID, settings.log, "-m conntrack --ctstate INVALID"),
    )
    not_allowed = f"-m mark ! --mark {allowed} {_undecided('egress')}"
    discovery = (
        tuple(f"{_icmpv6(number)} -j ACCEPT" for number in _ND_TYPES) if family is Family.V6 else ()
    )
    return {
        # No chain with classes behind it is reached from another such chain: nft walks every path anew at
        # each transaction, and one tree behind each leaf of the other would square the walk.
        FORWARD: (
            *_per_prefix(settings, "-i", f"-j {KNOWN}"),
            *_per_prefix(settings, "-o", f"-j {KNOWN}"),
            *_per_prefix(settings, "-i", f"-j {FROM_TREE}"),
            *_per_prefix(settings, "-i", not_allowed),
            *_per_prefix(settings, "-o", f"-j {TO_TREE}"),
            *_per_prefix(settings, "-o", _undecided("ingress")),
            *_per_prefix(settings, "-i", "-j ACCEPT"),
        ),
        KNOWN: known,
        "hw-revoked": denial(REVOKED, settings.log),
        INPUT: _per_prefix(settings, "-i", "-g hw-input"),
        "hw-input": (
            *discovery,
            *known,
            f"-j {FROM_TREE}",
            not_allowed,
            *(
                ("-j ACCEPT",)
                if settings.workload_to_host == "accept"
                else denial(TO_HOST, settings.log)
            ),
        ),
        # The bit of Pass may be set by a rule that works in two steps (render_policy): it ends here.
        ALLOWED: (f"-j MARK --set-xmark {marks.allowed:#x}/{marks.allowed | marks.passed:#x}",),
    }


def _undecided(direction: Literal["egress", "ingress"]) -> str:
    """Return the drop of what comes back from a tree without a verdict, which only damage lets happen."""
    return bearing("-j DROP", Denial("undecided", direction).origin.identity)


def _icmpv6(number: int) -> str:
    return f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}"
