"""What the host endpoints say of a tracked flow: whether a new packet like its first would be dropped.

A flow does not tell its interfaces. The one to an end is certain when the routes lead there by one alone; where
it is not, a flow is denied only if every interface it may use denies it, so nothing that is allowed is cut.

Pure. Source: `host_chains.py`, whose heads this must agree with.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hopwall_dataplane.classes import PolicyList
from hopwall_dataplane.conntrack.flow import Flow, HostAddresses, text_of
from hopwall_dataplane.failsafe import Failsafe
from hopwall_dataplane.host_chains import LOCAL_ICMPV6, Placement, host_lists
from hopwall_dataplane.iptables.static import (
    HOST_FORWARD_IN,
    HOST_FORWARD_OUT,
    HOST_INPUT,
    HOST_OUTPUT,
    HOST_PRE_DNAT,
    HOST_UNTRACKED_IN,
    HOST_UNTRACKED_OUT,
    RenderSettings,
)
from hopwall_dataplane.judge import Decision, Packet, Sets, decide
from hopwall_model import protocols
from hopwall_model.updates import PolicyId, PolicySet

#: The interface that the routes lead to a (packed) address by: None when there may be several, "" when
#: nothing is sent on to it (this host, a broadcast, nowhere).
WayTo = Callable[[bytes], str | None]

_FORWARDING: Final = {HOST_FORWARD_IN, HOST_FORWARD_OUT, HOST_PRE_DNAT, HOST_UNTRACKED_IN}


@dataclass(frozen=True, slots=True)
class HostJudgement:
    """What the flows of the host, and those it forwards, are judged by.

    Shape: `interfaces` is interface → what applies to it, of all that are neither loopback nor a workload's;
           `workloads` are the packed addresses of local workloads, `extra` what else they may send from.
    """

    interfaces: Mapping[str, Placement | None]
    workloads: Container[bytes]
    extra: HostAddresses
    host: HostAddresses
    policies: Mapping[PolicyId, PolicySet]
    sets: Sets
    settings: RenderSettings
    way_to: WayTo
    _lists: Mapping[str, Mapping[str, PolicyList]] = field(init=False)

    def __post_init__(self) -> None:
        """Find out what each host endpoint asks."""
        placed = (p for p in self.interfaces.values() if p is not None)
        object.__setattr__(self, "_lists", {p.endpoint.id: host_lists(p) for p in placed})

    def is_denied(self, flow: Flow) -> bool:
        """Tell whether the flow's first packet would be dropped now, wherever it may have come by."""
        if not self._lists or _is_uncertain(flow):
            return False
        if flow.source in self.host:
            if flow.destination in self.host or flow.destination in self.workloads:
                return False
            translated = flow.asked is not None and flow.asked[0] != flow.destination
            ways = self._all() if translated else self._ways(flow.destination)
            return _each(ways, lambda on: self._denies_output(on, flow))
        if flow.destination in self.host:
            ways = self._ways_in(flow)
            return _each(ways, lambda on: self._denies_input(on, flow))
        return self._denies_forwarded(flow)

    # ------------------------------------------------------------ which interface

    def _all(self) -> Sequence[Placement | None]:
        return tuple(self.interfaces.values())

    def _ways(self, address: bytes) -> Sequence[Placement | None]:
        """Return what may apply to the interface at an end; nothing where it is no interface of ours."""
        name = self.way_to(address)
        return (self.interfaces.get(name),) if name else self._all()

    def _ways_in(self, flow: Flow) -> Sequence[Placement | None]:
        if flow.source in self.workloads or flow.source in self.extra:
            return ()
        return self._ways(flow.source)

    # ------------------------------------------------------------ what is asked there

    def _denies_forwarded(self, flow: Flow) -> bool:
        if not any(_FORWARDING & asked.keys() for asked in self._lists.values()):
            return False
        inward = flow.destination in self.workloads
        if not inward and self.way_to(flow.destination) == "":
            return False  # a broadcast is not sent on
        ways_out = () if inward else self._ways(flow.destination)
        return _each(self._ways_in(flow), lambda on: self._denies_inward(on, flow)) or _each(
            ways_out, lambda on: self._says(on, HOST_FORWARD_OUT, packet_of(flow)) == "deny"
        )

    def _denies_input(self, on: Placement, flow: Flow) -> bool:
        word = self._before(on, flow)
        packet = packet_of(flow)
        if word == "undecided" and not (_is_discovery(packet) or self._is_safe_in(on, packet)):
            return self._says(on, HOST_INPUT, packet) != "allow"
        return word == "deny"

    def _denies_inward(self, on: Placement, flow: Flow) -> bool:
        word = self._before(on, flow)
        if word == "undecided":
            word = self._says(on, HOST_FORWARD_IN, packet_of(flow))
        return word == "deny"

    def _denies_output(self, on: Placement, flow: Flow) -> bool:
        packet, first = packet_of(flow), _first_of(flow)
        if _is_discovery(packet) or self._is_safe_out(on, packet):
            return False
        if not self._is_safe_out(on, first):
            word = self._says(on, HOST_UNTRACKED_OUT, first)
            if word != "undecided":
                return word == "deny"
        return self._says(on, HOST_OUTPUT, packet) != "allow"

    def _before(self, on: Placement, flow: Flow) -> Decision:
        """Return what is said before tracking and before DNAT; an allow there passes what comes after."""
        first = _first_of(flow)
        if _is_discovery(first) or self._is_safe_in(on, first):
            return "undecided"
        word = self._says(on, HOST_UNTRACKED_IN, first)
        return word if word != "undecided" else self._says(on, HOST_PRE_DNAT, first)

    def _says(self, on: Placement | None, place: str, packet: Packet) -> Decision:
        asked = self._lists[on.endpoint.id].get(place) if on is not None else None
        if asked is None:
            return "undecided"
        return decide(
            asked.tiers, asked.profiles, asked.direction, packet, self.policies, self.sets
        )

    # Of a connection that was under way before anything was tracked, the entry may begin with an answer: the
    # host's own ports, and the way to NATS, are safe also then. Not the remote's choice of a source port.

    def _is_safe_in(self, on: Placement, packet: Packet) -> bool:
        return _is_at(
            self.settings.failsafe_in, packet, packet.destination_port, packet.source
        ) or (_is_at(on.control, packet, packet.source_port, packet.source))

    def _is_safe_out(self, on: Placement, packet: Packet) -> bool:
        open_there = (*self.settings.failsafe_out, *on.control)
        return _is_at(open_there, packet, packet.destination_port, packet.destination) or (
            _is_at(self.settings.failsafe_in, packet, packet.source_port, packet.destination)
        )


def packet_of(flow: Flow) -> Packet:
    """Return the packet that policy judges a flow by."""
    return Packet(
        version=flow.version,
        protocol=flow.protocol,
        source=text_of(flow.source),
        destination=text_of(flow.destination),
        source_port=flow.source_port,
        destination_port=flow.destination_port,
        icmp_type=flow.icmp_type,
        icmp_code=flow.icmp_code,
    )


def _first_of(flow: Flow) -> Packet:
    """Return the packet as it was before DNAT."""
    if flow.asked is None:
        return packet_of(flow)
    address, port = flow.asked
    return packet_of(flow._replace(destination=address, destination_port=port))


def _each(ways: Sequence[Placement | None], denies: Callable[[Placement], bool]) -> bool:
    """Tell whether there is a way, and each has a host endpoint that denies."""
    distinct = {on.endpoint.id: on for on in ways if on is not None}
    return bool(ways) and None not in ways and all(denies(on) for on in distinct.values())


def _is_at(entries: Sequence[Failsafe], packet: Packet, port: int, address: str) -> bool:
    return any(
        entry.protocol == packet.protocol and entry.port == port and _holds(entry, address)
        for entry in entries
    )


def _holds(entry: Failsafe, address: str) -> bool:
    return not entry.net or ((":" in entry.net) == (":" in address) and entry.holds(address))


def _is_discovery(packet: Packet) -> bool:
    return packet.protocol == protocols.ICMPV6 and packet.icmp_type in LOCAL_ICMPV6


def _is_uncertain(flow: Flow) -> bool:
    """Tell whether an entry does not say enough: an expected connection that is translated, or link-local ends.

    Broadcasts and multicasts go to no end in particular.
    """
    source, back, there, answers = flow.ends
    expected = (flow.source, flow.destination) != (source, back)
    if expected and (source, there) != (answers, back):
        return True
    return any(
        end[0] >= 0xE0 if len(end) == 4 else end[0] == 0xFF or (end[0] == 0xFE and end[1] >= 0x80)
        for end in (flow.source, flow.destination)
    )
