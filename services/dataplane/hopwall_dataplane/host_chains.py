"""The chains of host endpoints: by interface to a head, and from there to the policies.

    raw     PREROUTING, OUTPUT   doNotTrack    an allow: not tracked, and marked as allowed
    mangle  PREROUTING           preDNAT       an allow: marked as allowed
    filter  INPUT, OUTPUT        the host's own traffic: what nobody allows is dropped
    filter  FORWARD              applyOnForward: before the workloads' chains from an interface, after them to one

A head has what comes before policy (neighbour discovery, what is established, failsafe), calls the list and
looks at the mark the list leaves. What the mark says on the way in is set or cleared in the first chain that a
packet meets here, so no foreign mark opens anything.

Pure. Source: Calico, "Protect hosts"; RFC 4890 (what ICMPv6 must pass).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec import structs

from hopwall_dataplane.classes import PolicyList, tier_policies
from hopwall_dataplane.failsafe import Failsafe
from hopwall_dataplane.iptables.identity import Denial
from hopwall_dataplane.iptables.nflog import denial
from hopwall_dataplane.iptables.render_policy import Direction
from hopwall_dataplane.iptables.static import (
    HOST_FORWARD_IN,
    HOST_FORWARD_OUT,
    HOST_INPUT,
    HOST_OUTPUT,
    HOST_PRE_DNAT,
    HOST_UNTRACKED_IN,
    HOST_UNTRACKED_OUT,
    KNOWN,
    RenderSettings,
    allowed_chain,
)
from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.outcome import Family
from hopwall_model.names import chain_name
from hopwall_model.updates import HostEndpointSet, TierPolicies

#: Listener queries, reports and dones; router and neighbour solicitations and advertisements; reports (v2).
LOCAL_ICMPV6 = (130, 131, 132, 133, 134, 135, 136, 143)
_ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED"

#: What leaves a mark that opens the way from one of the host's interfaces to another.
_MARKS_FORWARDED = {HOST_FORWARD_IN, HOST_FORWARD_OUT, HOST_PRE_DNAT}
#: Takes the mark off what comes from an interface where nobody of ours could have set it.
_UNASKED = "hw-host-unasked"

Chains = dict[TableName, dict[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Placement:
    """A host endpoint where it applies.

    Shape: `everywhere` for all interfaces that no other one has; `control` are the ways to NATS that stay
           open, none where the endpoint is forced.
    """

    endpoint: HostEndpointSet
    interfaces: tuple[str, ...]
    everywhere: bool = False
    control: tuple[Failsafe, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where packets are asked: a table, a direction, and how a list is made and named there."""

    table: TableName
    direction: Direction
    kind: str


_PLACES: Mapping[str, _Place] = {
    HOST_INPUT: _Place("filter", "ingress", "in"),
    HOST_OUTPUT: _Place("filter", "egress", "out"),
    HOST_FORWARD_IN: _Place("filter", "ingress", "fin"),
    HOST_FORWARD_OUT: _Place("filter", "egress", "fout"),
    HOST_PRE_DNAT: _Place("mangle", "ingress", "pre"),
    HOST_UNTRACKED_IN: _Place("raw", "ingress", "uin"),
    HOST_UNTRACKED_OUT: _Place("raw", "egress", "uout"),
}


def host_lists(placement: Placement) -> dict[str, PolicyList]:
    """Return what a host endpoint asks of packets, by the place (a `HOST_` chain) where it is asked.

    The host's own traffic is always asked; all else only where a policy has something to say.
    """
    endpoint = placement.endpoint
    by_place = {
        HOST_INPUT: endpoint.tiers,
        HOST_OUTPUT: endpoint.tiers,
        HOST_FORWARD_IN: endpoint.forward,
        HOST_FORWARD_OUT: endpoint.forward,
        HOST_PRE_DNAT: open_ended(endpoint.pre_dnat),
        HOST_UNTRACKED_IN: () if placement.everywhere else open_ended(endpoint.untracked),
        HOST_UNTRACKED_OUT: () if placement.everywhere else open_ended(endpoint.untracked),
    }
    found: dict[str, PolicyList] = {}
    for chain, tiers in by_place.items():
        place = _PLACES[chain]
        own = chain in (HOST_INPUT, HOST_OUTPUT)
        if own or any(tier_policies(tier, place.direction) for tier in tiers):
            found[chain] = PolicyList(
                chain_name(f"l{place.kind}", endpoint.id),
                place.direction,
                tiers,
                endpoint.profiles if own else (),
                place.table,
                marking=chain != HOST_INPUT,
                end="deny" if own else "pass",
            )
    return found


def open_ended(tiers: tuple[TierPolicies, ...]) -> tuple[TierPolicies, ...]:
    """Return tiers at whose end a packet goes on: before tracking and before DNAT no tier drops."""
    return tuple(
        structs.replace(tier, ingress_default="pass", egress_default="pass") for tier in tiers
    )


def host_chains(
    family: Family, settings: RenderSettings, placements: Sequence[Placement]
) -> Chains:
    """Return the heads of all host endpoints, and the chains that find them by interface.

    Shape:  table → chain → rule bodies. A place where nobody has anything to ask has no chain at all.
    """
    lists = [(placement, host_lists(placement)) for placement in placements]
    chains: Chains = {"raw": {}, "mangle": {}, "filter": {}, "nat": {}}
    forwards = any(_MARKS_FORWARDED & asked.keys() for _, asked in lists)
    for chain, place in _PLACES.items():
        closing = chain == HOST_FORWARD_IN and forwards
        if not closing and not any(chain in asked for _, asked in lists):
            continue
        other = f"-g {_UNASKED}" if closing else "-j RETURN"
        flag = "-i" if place.direction == "ingress" else "-o"
        strangers = (*(f"{prefix}+" for prefix in settings.prefixes), "lo")
        lines = [f"{flag} {name} -j RETURN" for name in strangers]
        last = [other] if closing else []
        for placement, asked in lists:
            to = "-j RETURN" if _before(chain, asked) else other
            if chain in asked:
                to = f"-g {_head_name(place, placement)}"
                head = _head(chain, placement, asked, family, settings)
                chains[place.table][_head_name(place, placement)] = head
            lines += [f"{flag} {name} {to}" for name in placement.interfaces]
            if placement.everywhere and to != "-j RETURN":
                last = [to]
            elif placement.everywhere:
                last = []
        chains[place.table][chain] = (*lines, *last)
    if forwards:
        chains["filter"][_UNASKED] = (f"-j MARK --set-xmark 0x0/{settings.marks.allowed:#x}",)
    for table in ("raw", "mangle"):
        if chains[table]:
            chains[table] |= allowed_chain(settings)
    return chains


def _head_name(place: _Place, placement: Placement) -> str:
    return chain_name(f"h{place.kind}", placement.endpoint.id)


def _head(
    chain: str,
    placement: Placement,
    asked: Mapping[str, PolicyList],
    family: Family,
    settings: RenderSettings,
) -> tuple[str, ...]:
    marks = settings.marks
    allowed = f"-m mark --mark {marks.allowed:#x}/{marks.allowed:#x}"
    clear = f"-j MARK --set-xmark 0x0/{marks.allowed | marks.passed:#x}"
    ask = f"-j {asked[chain].chain()}"
    inbound = _PLACES[chain].direction == "ingress"
    before = _before(chain, asked)
    lines = _Lines(placement, family, settings)
    if chain in (HOST_UNTRACKED_IN, HOST_UNTRACKED_OUT):
        safe = lines.failsafe("RETURN", inbound=inbound, replies=True)
        return (clear, *lines.discovery("RETURN"), *safe, ask, f"{allowed} -j CT --notrack")
    if chain == HOST_PRE_DNAT:
        first = (f"{allowed} -j RETURN",) if before else ()
        known = (*lines.discovery("RETURN"), f"{_ESTABLISHED} -j RETURN")
        return (*first, clear, *known, *lines.failsafe("RETURN", inbound=True), ask)
    if chain in (HOST_INPUT, HOST_OUTPUT):
        first = (f"{allowed} -j ACCEPT",) if before else ()
        known = (*lines.discovery("ACCEPT"), f"-j {KNOWN}")
        safe = lines.failsafe("ACCEPT", inbound=inbound)
        after = () if inbound else (f"{allowed} -j ACCEPT",)
        undecided = denial(Denial("undecided", _PLACES[chain].direction), settings.log)
        return (*first, *known, *safe, clear, ask, *after, *undecided)
    first = (f"{allowed} -j RETURN",) if before else ()
    return (*first, f"-j {KNOWN}", clear, ask)


def _before(chain: str, asked: Mapping[str, PolicyList]) -> bool:
    """Tell whether a packet that comes to a place may carry the mark of an earlier place of ours."""
    earlier = {
        HOST_PRE_DNAT: {HOST_UNTRACKED_IN},
        HOST_INPUT: {HOST_UNTRACKED_IN, HOST_PRE_DNAT},
        HOST_FORWARD_IN: {HOST_UNTRACKED_IN, HOST_PRE_DNAT},
        HOST_OUTPUT: {HOST_UNTRACKED_OUT},
    }
    return bool(earlier.get(chain, set()) & asked.keys())


@dataclass(frozen=True, slots=True)
class _Lines:
    """What stands in a head before policy."""

    placement: Placement
    family: Family
    settings: RenderSettings

    def discovery(self, verdict: str) -> tuple[str, ...]:
        """Let by what the host finds its neighbours and its routers with."""
        if self.family is Family.V4:
            return ()
        return tuple(
            f"-p ipv6-icmp -m icmp6 --icmpv6-type {number} -j {verdict}" for number in LOCAL_ICMPV6
        )

    def failsafe(self, verdict: str, *, inbound: bool, replies: bool = False) -> tuple[str, ...]:
        """Let by what nothing may close; where nothing is tracked yet, the replies by their source port."""
        to_host = self.settings.failsafe_in
        from_host = (*self.settings.failsafe_out, *self.placement.control)
        asked, answered = (to_host, from_host) if inbound else (from_host, to_host)
        side = "-s" if inbound else "-d"
        lines = [self._line(entry, side, "--dport", verdict) for entry in asked]
        if replies:
            lines += [self._line(entry, side, "--sport", verdict) for entry in answered]
        return tuple(line for line in lines if line)

    def _line(self, entry: Failsafe, side: str, port: str, verdict: str) -> str:
        if not entry.is_for(self.family):
            return ""
        name = "tcp" if entry.protocol == 6 else "udp"
        net = f" {side} {entry.net}" if entry.net else ""
        return f"-p {name} -m {name} {port} {entry.port}{net} -j {verdict}"
