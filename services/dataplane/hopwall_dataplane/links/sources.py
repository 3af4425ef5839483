"""On which interfaces the kernel asks whether the way back to a sender leads out where its packet came in.

With `rp_filter` an ARP request that names another sender makes no entry in the kernel's table of neighbours,
which is one for all interfaces of the machine and refuses everybody when it is full. But it also stops what is
sent from extra prefixes, to which no route leads, and who has just arrived by a live migration, before its route
stands. So it follows the routes: off before a route to one of the addresses goes, on after all of them stand. Where
nobody is declared (any more) it is off: a workload that is answered no ARP gives its next hop up for a second, and would be
declared again, and programmed, before it asks once more.

Pure. Packets themselves are held to their senders by the anti-spoofing lines, with or without it.
Source: Documentation/networking/ip-sysctl.rst (rp_filter); arp_process() in net/ipv4/arp.c.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hopwall_dataplane.outcome import Family

CHECK = "net/ipv4/conf/{}/rp_filter"
#: The kernel takes the greater of this and an interface's own.
CHECK_ALL = CHECK.format("all")
_STRICT = 1

#: How many neighbours of a family the kernel keeps for the whole machine; it is told to the first namespace alone.
MOST_NEIGHBOURS = "net/ipv6/neigh/default/gc_thresh3"
_KERNELS_MOST = 1024
#: An entry cannot be taken back for 5 s, so a quarter of the table is in use at most. Source: neigh_forced_gc().
_SHARE = 20
_RATES = (10, 5000)


class Senders(NamedTuple):
    """What the endpoints of one interface send from.

    Shape: `addresses` as CIDRs, of those that are not closed; `spoofs` tells whether there are other prefixes.
    """

    addresses: tuple[str, ...]
    spoofs: bool


#: Of an interface on which nobody is declared: what is sent there is not known.
STRANGERS = Senders((), spoofs=True)


class Checks(NamedTuple):
    """Interfaces whose senders cannot be checked, and those where they can."""

    off: frozenset[str]
    on: frozenset[str]


def checks(
    senders: Mapping[str, Senders], wanted: Mapping[str, str], standing: Mapping[str, str]
) -> Checks:
    """Sort interfaces, by the interface that the route to each address is to lead to, and the one it does.

    Shape: who is in neither has a route still to come: it stays as it is until then.
    """
    off, on = set(), set()
    for name, who in senders.items():
        own = [cidr for cidr in who.addresses if Family.of(cidr) is Family.V4]
        if who.spoofs or any(wanted.get(cidr) != name for cidr in own):
            off.add(name)
        elif all(standing.get(cidr) == name for cidr in own):
            on.add(name)
    return Checks(frozenset(off), frozenset(on))


def askers_rate(most_neighbours: str | None) -> int:
    """Return how many entries a second may be made for senders that nobody declares, so that there is always room."""
    most = _KERNELS_MOST if most_neighbours is None else int(most_neighbours)
    return min(max(most // _SHARE, _RATES[0]), _RATES[1])


def spoofs(extra_sources: Iterable[str]) -> bool:
    """Tell whether extra prefixes are of the family that can be checked."""
    return any(Family.of(cidr) is Family.V4 for cidr in extra_sources)


def why_unchecked(of_all: str | None) -> str:
    """Return what is the matter with the value that counts for all interfaces, "" for nothing."""
    if of_all in (None, "0"):
        return ""
    if of_all == str(_STRICT):
        return (
            "net.ipv4.conf.all.rp_filter is 1: what workloads send from extra source prefixes, or before the route"
            " to who has moved here stands, is dropped; set it to 0, each interface has its own."
        )
    return (
        f"net.ipv4.conf.all.rp_filter is {of_all}: a workload can fill the table of neighbours with ARP requests;"
        " set it to 0, each interface has its own."
    )
