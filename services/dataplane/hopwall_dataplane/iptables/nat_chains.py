"""The nat table: floating addresses, and workloads that leave the cloud under the host's address.

    PREROUTING, OUTPUT  → hw-nat-to (tree on the destination)   → a chain each: external → internal
    POSTROUTING, last   → hw-nat-post
                            → hw-nat-from (tree on the source)  → a chain each: internal → external, to itself and
                                                                  out of the pools
                            → hw-nat-out  source in a pool with natOutgoing, destination in no pool → the host's address

Only the first packet of a connection comes here; a packet that concerns no floating address meets at most the
lines of one root. The tree needs no set beside it that would have to be filled in step. Each translation has
chains of its own, so that one which the tool refuses is empty and no other is.

Pure. Source: iptables-extensions(8): DNAT, SNAT, MASQUERADE.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence

from hopwall_dataplane.iptables.table import Jump
from hopwall_dataplane.outcome import Family
from hopwall_model.names import chain_name, set_name
from hopwall_model.updates import NAT_POOLS, POOLS, Nat

#: Begins the name of each of our chains in the nat table.
NAT_PREFIX = "hw-nat"
_TO, _FROM, _POST = "hw-nat-to", "hw-nat-from", "hw-nat-post"
#: What hides the pools with natOutgoing.
OUT_CHAIN = "hw-nat-out"
_LEAVES = 8
_BITS = 3
#: nft takes no path of more than 16 chains: below this level a node names all its leaves itself.
_MAX_LEVEL = 6

Chains = dict[str, tuple[str, ...]]


def nat_chains(
    family: Family, nats: Sequence[Nat], *, pools: bool, outgoing: bool
) -> tuple[Chains, tuple[Jump, ...]]:
    """Return the chains of the nat table and the jumps to them; none where nothing is translated.

    Shape:  `nats` are of this family, each external once. `pools`: the set of all pools can be relied on;
            without it nothing is hidden, as it would be hidden from the workloads too. `outgoing`: some
            pool has natOutgoing.
    """
    inside = f"-m set --match-set {set_name(family.value, POOLS)}"
    outside = f"-m set ! --match-set {set_name(family.value, POOLS)} dst"
    chains: Chains = {}
    jumps: tuple[Jump, ...] = ()
    post: list[str] = []
    if nats:
        to = {n.external: to_chain(n.external) for n in nats}
        for nat in nats:
            chains[to[nat.external]] = (f"-j DNAT --to-destination {_bare(nat.internal)}",)
        chains |= _tree(_TO, "-d", to)
        jumps = (Jump("PREROUTING", _TO), Jump("OUTPUT", _TO))
        seen_as = lowest_externals(nats)
        for internal, external in seen_as.items():
            action = f"-j SNAT --to-source {_bare(external)}"
            out = (f"{inside} src {outside} {action}",) if pools else ()
            chains[from_chain(internal)] = (f"-d {internal} {action}", *out)
        chains |= _tree(_FROM, "-s", {internal: from_chain(internal) for internal in seen_as})
        post.append(f"-j {_FROM}")
    if outgoing and pools:
        source = f"-m set --match-set {set_name(family.value, NAT_POOLS)} src"
        chains[OUT_CHAIN] = (f"{source} {outside} -j MASQUERADE --random-fully",)
        post.append(f"-j {OUT_CHAIN}")
    if post:
        chains[_POST] = tuple(post)
        jumps = (*jumps, Jump("POSTROUTING", _POST, where="last"))
    return chains, jumps


def to_chain(external: str) -> str:
    """Name the chain that translates what is sent to a floating address."""
    return chain_name("natt", external)


def from_chain(internal: str) -> str:
    """Name the chain that translates what the owner of a floating address sends."""
    return chain_name("natf", internal)


def lowest_externals(nats: Iterable[Nat]) -> dict[str, str]:
    """Return for each internal address the external one it is seen as: the lowest by number; of both families."""
    found: dict[str, str] = {}
    for nat in sorted(nats, key=lambda n: (":" in n.external, ipaddress.ip_network(n.external))):
        found.setdefault(nat.internal, nat.external)
    return found


def _tree(root: str, option: str, leaves: Mapping[str, str]) -> Chains:
    """Return the chains that lead from `root` to the chain of the packet's address.

    Cost: a packet meets O(log8 n) lines, as long as addresses lie as addresses do.
    """
    by_number = {int(ipaddress.ip_network(cidr)[0]): cidr for cidr in leaves}
    bits = 128 if any(":" in cidr for cidr in leaves) else 32
    chains: Chains = {}

    def grow(name: str, numbers: list[int], level: int) -> None:
        if len(numbers) <= _LEAVES or level == _MAX_LEVEL:
            cidrs = [by_number[number] for number in numbers]
            chains[name] = tuple(f"{option} {cidr} -g {leaves[cidr]}" for cidr in cidrs)
            return
        shared = bits - (numbers[0] ^ numbers[-1]).bit_length()
        length = min(bits, shared + _BITS)
        lines = []
        for prefix, group in _grouped(numbers, lambda number: number >> (bits - length)):
            net = f"{_text(prefix << (bits - length), bits)}/{length}"
            child = chain_name("natd" if option == "-d" else "nats", net)
            lines.append(f"{option} {net} -g {child}")
            grow(child, group, level + 1)
        chains[name] = tuple(lines)

    grow(root, sorted(by_number), 0)
    return chains


def _grouped(numbers: list[int], key: Callable[[int], int]) -> list[tuple[int, list[int]]]:
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(key(number), []).append(number)
    return sorted(groups.items())


def _text(number: int, bits: int) -> str:
    return str(ipaddress.IPv6Address(number) if bits == 128 else ipaddress.IPv4Address(number))


def _bare(cidr: str) -> str:
    return cidr.partition("/")[0]
