"""Other ways from an interface or an address to an endpoint's chain, for the bench to compare ours with.

Each takes the endpoints of a host and returns the chains below `hw-from` and `hw-to`, and one egress and one
ingress chain an endpoint. All of them end where ours does: the source address is checked, one policy allows.
Pure. Source of the two-level tree: Calico, felix/rules/dispatch.go, as its behaviour is documented.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import Literal

from hopwall_dataplane.iptables.static import ALLOWED, FORWARD, FROM_TREE, KNOWN, TO_TREE
from hopwall_dataplane.iptables.table import Chain
from hopwall_dataplane.marks import MarkLayout

#: Hexadecimal characters that tell endpoints' interfaces apart, as in `tapa429fb36-04`.
_NAME_CHARS = 8
_FEW = 4
Side = Literal["from", "to"]
Chains = dict[str, Chain]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload: its place in the order, which is that of its name and of its address too."""

    number: int
    interface: str
    address: str

    def chain(self, side: Side) -> str:
        """Name its chain."""
        return f"hw-e{side[0]}-{self.number}"


def address(number: int) -> str:
    """Return the address of endpoint `number`, from 0."""
    return str(IPv4Address("10.65.0.0") + number + 1)


def endpoints(n: int) -> list[Endpoint]:
    """Return `n` endpoints, their interfaces' names evenly spread; names and addresses in one order."""
    return [Endpoint(i, f"tap{_step(n) * i:0{_NAME_CHARS}x}", address(i)) for i in range(n)]


def joining(n: int, number: int) -> Endpoint:
    """Return one that joins `n` endpoints, its name in their midst; `number` counts on from `n`."""
    return Endpoint(number, f"tap{_step(n) * (n // 2) + number:0{_NAME_CHARS}x}", address(number))


def _step(n: int) -> int:
    step: int = 16**_NAME_CHARS // n
    return step


# ---------------------------------------------------------------- the ways


def linear(all_endpoints: Sequence[Endpoint]) -> Chains:
    """A line for each interface."""
    return {
        root: (*(_by_name(e.interface, e.chain(side), side) for e in all_endpoints), "-j DROP")
        for root, side in _ROOTS
    }


def two_levels(all_endpoints: Sequence[Endpoint]) -> Chains:
    """A chain for each first character that differs, then a line for each interface."""
    return _prefix_tree(all_endpoints, depth=1)


def radix_16(all_endpoints: Sequence[Endpoint]) -> Chains:
    """A chain for each further character of the interface's name."""
    return _prefix_tree(all_endpoints, depth=_NAME_CHARS)


def addresses_4(all_endpoints: Sequence[Endpoint]) -> Chains:
    """A chain for each two further bits of the address."""
    chains: Chains = {}
    levels = (len(all_endpoints).bit_length() + 1) // 2
    for root, side in _ROOTS:
        net = f"10.65.0.0/{32 - 2 * levels}"
        _address_node(chains, root, root, net, list(all_endpoints), side)
    return chains


WAYS: Mapping[str, Callable[[Sequence[Endpoint]], Chains]] = {
    "linear, by interface": linear,
    "two-level prefix tree, by interface": two_levels,
    "16-ary tree, by interface": radix_16,
    "4-ary tree, by address": addresses_4,
}
_ROOTS: tuple[tuple[str, Side], ...] = ((FROM_TREE, "from"), (TO_TREE, "to"))


def surroundings(marks: MarkLayout) -> Chains:
    """Return what stands before and between the two ways, as with ours: established packets leave first."""
    allowed = f"{marks.allowed:#x}/{marks.allowed:#x}"
    return {
        FORWARD: (
            f"-i tap+ -j {KNOWN}",
            f"-o tap+ -j {KNOWN}",
            f"-i tap+ -j {FROM_TREE}",
            f"-i tap+ -m mark ! --mark {allowed} -j DROP",
            f"-o tap+ -j {TO_TREE}",
            "-o tap+ -j DROP",
        ),
        KNOWN: (
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate INVALID -j DROP",
        ),
        ALLOWED: (f"-j MARK --set-xmark {allowed}",),
        "hw-pe-open": (f"-g {ALLOWED}",),
        "hw-pi-open": ("-j ACCEPT",),
    }


def ends(all_endpoints: Sequence[Endpoint], marks: MarkLayout) -> Chains:
    """Return the chains of the endpoints: source check, one policy each way that allows."""
    back = f"-m mark ! --mark 0x0/{marks.allowed:#x} -j RETURN"
    chains: Chains = {}
    for e in all_endpoints:
        source = f"! -s {e.address}/32 -j DROP"
        chains[e.chain("from")] = (source, "-j hw-pe-open", back, "-j DROP")
        chains[e.chain("to")] = ("-j hw-pi-open", "-j DROP")
    return chains


# ---------------------------------------------------------------- trees


def _by_name(name: str, chain: str, side: Side) -> str:
    return f"-{'i' if side == 'from' else 'o'} {name} -g {chain}"


def _prefix_tree(all_endpoints: Sequence[Endpoint], depth: int) -> Chains:
    chains: Chains = {}
    for root, side in _ROOTS:
        _name_node(chains, root, root, "tap", list(all_endpoints), side, depth)
    return chains


def _name_node(
    chains: Chains,
    name: str,
    root: str,
    prefix: str,
    below: list[Endpoint],
    side: Side,
    depth: int,
) -> None:
    bins: dict[str, list[Endpoint]] = {}
    for e in below:
        bins.setdefault(e.interface[: len(prefix) + 1] if depth else e.interface, []).append(e)
    lines = []
    for start, members in sorted(bins.items()):
        if len(members) == 1:
            lines.append(_by_name(members[0].interface, members[0].chain(side), side))
            continue
        child = f"{root}-{start.removeprefix('tap')}"
        lines.append(_by_name(f"{start}+", child, side))
        _name_node(chains, child, root, start, members, side, depth - 1)
    chains[name] = (*lines, "-j DROP")


def _address_node(
    chains: Chains, name: str, root: str, net: str, below: list[Endpoint], side: Side
) -> None:
    flag = "-s" if side == "from" else "-d"
    if len(below) <= _FEW:
        lines = [f"{flag} {e.address}/32 -g {e.chain(side)}" for e in below]
        chains[name] = (*lines, "-j DROP")
        return
    lines = []
    for part in ip_network(net).subnets(prefixlen_diff=2):
        inside = [e for e in below if IPv4Address(e.address) in part]
        if inside:
            child = f"{root}-{part.prefixlen}-{int(part.network_address) & 0xFFFF:x}"
            lines.append(f"{flag} {part} -g {child}")
            _address_node(chains, child, root, str(part), inside, side)
    chains[name] = (*lines, "-j DROP")
