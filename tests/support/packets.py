"""A packet's way through lines as rendered, and what a rule says of it: two readings that must agree.

`walk` knows the options that our renderer writes and no others, so a new one fails here first.
"""

import ipaddress
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hopwall_dataplane.outcome import Family
from hopwall_model.updates import Entity, ResolvedRule, SetId
from tests.support import bpf

Verdict = Literal["accept", "drop", "return", "end"]

_EXTENSIONS = {"hop-by-hop": 0, "ipv6-route": 43, "ipv6-frag": 44, "ah": 51, "ipv6-opts": 60}


@dataclass(frozen=True)
class Packet:
    """What rules can see of a packet.

    Shape: `protocol` is the last header's; `extensions` are the headers before it, in IPv6.
    """

    source: str = "10.0.0.1"
    destination: str = "10.0.0.2"
    protocol: int = 6
    source_port: int = 1000
    destination_port: int = 80
    icmp: tuple[int, int] = (8, 0)
    extensions: frozenset[int] = frozenset()
    mark: int = 0
    #: From the IP header on, for programs; no policy asks for more than the fields above.
    head: bytes = b""

    @property
    def family(self) -> Family:
        """The packet's family."""
        return Family.V6 if ":" in self.source else Family.V4


@dataclass
class Way:
    """How a packet fared: the verdict, its mark at the end, and how often it was logged."""

    verdict: Verdict
    mark: int
    n_logged: int = 0


@dataclass
class Lines:
    """Chains and kernel sets that packets meet.

    Shape: a set's members are as the model writes them.
    """

    chains: Mapping[str, Sequence[str]]
    sets: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def walk(self, chain: str, packet: Packet) -> Way:
        """Lead a packet through a chain until something decides."""
        way = Way("end", packet.mark)
        for body in self.chains[chain]:
            words = shlex.split(body)
            at = next(i for i, word in enumerate(words) if word in ("-j", "-g"))
            if not self._matches(words[:at], replace(packet, mark=way.mark)):
                continue
            target, options = words[at + 1], words[at + 2 :]
            if target == "MARK":
                value, mask = (int(x, 16) for x in options[1].split("/"))
                way.mark = (way.mark & ~mask) ^ value
            elif target == "NFLOG":
                way.n_logged += 1
            elif target in ("ACCEPT", "DROP", "RETURN"):
                way.verdict = target.lower()  # type: ignore[assignment]
                return way
            else:
                inner = self.walk(target, replace(packet, mark=way.mark))
                way = Way(inner.verdict, inner.mark, way.n_logged + inner.n_logged)
                if words[at] == "-g" or way.verdict in ("accept", "drop"):
                    way.verdict = "return" if way.verdict == "end" else way.verdict
                    return way
        return way

    def _matches(self, words: list[str], packet: Packet) -> bool:
        return all(self._one(*condition, packet) for condition in _conditions(words))

    def _one(self, negated: bool, option: str, values: list[str], packet: Packet) -> bool:
        return _CONDITIONS[option](self, values, packet) != negated

    def in_set(self, values: list[str], packet: Packet) -> bool:
        """Look an address, or an address with its port, up in a set."""
        members, ends = self.sets[values[0]], values[1].split(",")
        address = packet.source if ends[0] == "src" else packet.destination
        if len(ends) == 1:
            return any(_within(address, member) for member in members)
        port = packet.source_port if ends[1] == "src" else packet.destination_port
        return f"{address},{packet.protocol}:{port}" in members


def _conditions(words: list[str]) -> Iterator[tuple[bool, str, list[str]]]:
    i = 0
    while i < len(words):
        if words[i] == "-m":
            i += 2
            continue
        negated = words[i] == "!"
        i += negated
        option, values = words[i], []
        i += 1
        while i < len(words) and not words[i].startswith("-") and words[i] != "!":
            values.append(words[i])
            i += 1
        yield negated, option, values


def _within(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def _in_range(address: str, text: str) -> bool:
    first, last = (int(ipaddress.ip_address(x)) for x in text.split("-"))
    return first <= int(ipaddress.ip_address(address)) <= last


def _in_ports(port: int, text: str, packet: Packet) -> bool:
    assert packet.protocol in (6, 17, 132, 136)
    slots = text.replace(":", ",").split(",")
    assert len(slots) <= 15
    ranges = ([int(x) for x in part.split(":")] for part in text.split(","))
    return any(r[0] <= port <= r[-1] for r in ranges)


def _icmp(values: list[str], packet: Packet) -> bool:
    kind, _, code = values[0].partition("/")
    return packet.icmp[0] == int(kind) and (not code or packet.icmp[1] == int(code))


def _marked(values: list[str], packet: Packet) -> bool:
    value, mask = (int(x, 16) for x in values[0].split("/"))
    return packet.mark & mask == value


def _first_byte(values: list[str], packet: Packet) -> bool:
    assert values == ["6&0xff=0x0"]
    return packet.protocol == 0


_Condition = Callable[[Lines, list[str], Packet], bool]
_CONDITIONS: dict[str, _Condition] = {
    "-p": lambda _, values, packet: packet.protocol == int(values[0]),
    "-s": lambda _, values, packet: _within(packet.source, values[0]),
    "-d": lambda _, values, packet: _within(packet.destination, values[0]),
    "--src-range": lambda _, values, packet: _in_range(packet.source, values[0]),
    "--dst-range": lambda _, values, packet: _in_range(packet.destination, values[0]),
    "--sports": lambda _, values, packet: _in_ports(packet.source_port, values[0], packet),
    "--dports": lambda _, values, packet: _in_ports(packet.destination_port, values[0], packet),
    "--match-set": Lines.in_set,
    "--icmp-type": lambda _, values, packet: _icmp(values, packet),
    "--icmpv6-type": lambda _, values, packet: _icmp(values, packet),
    "--mark": lambda _, values, packet: _marked(values, packet),
    "--u32": lambda _, values, packet: _first_byte(values, packet),
    "--bytecode": lambda _, values, packet: bool(bpf.run(values[0], packet.head)),
    "--header": lambda _, values, packet: _EXTENSIONS[values[0]] in packet.extensions,
    "--soft": lambda _, values, packet: True,
    # A packet alone is within every rate.
    "--limit": lambda _, values, packet: True,
    "--limit-burst": lambda _, values, packet: True,
}


# ---------------------------------------------------------------- what the rule itself says


def rule_matches(rule: ResolvedRule, packet: Packet, sets: Mapping[SetId, frozenset[str]]) -> bool:
    """Read a rule word for word: the dumb twin of what is rendered."""
    if rule.ip_version not in (None, 6 if packet.family is Family.V6 else 4):
        return False
    opens = rule.action in ("allow", "pass")
    if rule.protocol is not None and not _is_protocol(rule.protocol, packet, doubt=not opens):
        return False
    if rule.not_protocol is not None and _is_protocol(rule.not_protocol, packet, doubt=opens):
        return False
    if rule.icmp_type is not None and not _icmp_is(rule.icmp_type, rule.icmp_code, packet):
        return False
    if rule.not_icmp_type is not None and _icmp_is(rule.not_icmp_type, rule.not_icmp_code, packet):
        return False
    return _side_matches(
        rule.source, packet.source, packet.source_port, packet, sets
    ) and _side_matches(rule.destination, packet.destination, packet.destination_port, packet, sets)


def _is_protocol(number: int, packet: Packet, *, doubt: bool) -> bool:
    """Tell whether a packet is of a protocol; one that carries it as an extension header is in doubt."""
    other_icmp = 58 if packet.family is Family.V4 else 1
    if packet.family is Family.V6 and number == _EXTENSIONS["ah"]:
        return number in packet.extensions
    if packet.family is Family.V6 and number in _EXTENSIONS.values():
        return doubt and number in packet.extensions
    return packet.protocol == number and number != other_icmp


def _icmp_is(kind: int, code: int | None, packet: Packet) -> bool:
    return packet.icmp[0] == kind and code in (None, packet.icmp[1])


def _side_matches(
    side: Entity, address: str, port: int, packet: Packet, sets: Mapping[SetId, frozenset[str]]
) -> bool:
    service = f"{address},{packet.protocol}:{port}"

    def holds(cidr: str) -> bool:
        same = (":" in cidr) == (":" in address)
        return same and _within(address, cidr)

    def listed(set_id: SetId) -> bool:
        return any(holds(member) for member in sets[set_id])

    positive = [any(r.first <= port <= r.last for r in side.ports)]
    positive += [service in sets[set_id] for set_id in side.port_sets]
    return (
        (side.net is None or holds(side.net))
        and (side.not_net is None or not holds(side.not_net))
        and all(listed(set_id) for set_id in side.sets)
        and not any(listed(set_id) for set_id in side.not_sets)
        and (any(positive) or not (side.ports or side.port_sets))
        and not any(r.first <= port <= r.last for r in side.not_ports)
        and not any(service in sets[set_id] for set_id in side.not_port_sets)
    )
