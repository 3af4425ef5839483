"""How iptables hangs a table into the kernel, and what is other where somebody else made or changed it.

A table that is asleep (nf_tables: dormant) has all its lines, and no packet meets them. A chain that bears a kernel
chain's name without its hook, or with another, keeps the tool from making the true one. The tools show neither. Pure.

Source: xtables_ipv4 in iptables/nft.c; linux/netfilter.h, linux/netfilter_ipv4.h.
"""

from collections.abc import Mapping
from typing import NamedTuple

from hopwall_dataplane.iptables.table import TableName


class Hook(NamedTuple):
    """Where packets enter a chain."""

    type: str
    number: int
    priority: int


_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(5)

#: Table → kernel chain → its hook, as the tool makes it.
HOOKS: Mapping[TableName, Mapping[str, Hook]] = {
    "raw": {
        "PREROUTING": Hook("filter", _PREROUTING, -300),
        "OUTPUT": Hook("filter", _OUTPUT, -300),
    },
    "mangle": {
        "PREROUTING": Hook("filter", _PREROUTING, -150),
        "INPUT": Hook("filter", _INPUT, -150),
        "FORWARD": Hook("filter", _FORWARD, -150),
        "OUTPUT": Hook("route", _OUTPUT, -150),
        "POSTROUTING": Hook("filter", _POSTROUTING, -150),
    },
    "filter": {
        "INPUT": Hook("filter", _INPUT, 0),
        "FORWARD": Hook("filter", _FORWARD, 0),
        "OUTPUT": Hook("filter", _OUTPUT, 0),
    },
    "nat": {
        "PREROUTING": Hook("nat", _PREROUTING, -100),
        "INPUT": Hook("nat", _INPUT, 100),
        "OUTPUT": Hook("nat", _OUTPUT, -100),
        "POSTROUTING": Hook("nat", _POSTROUTING, 100),
    },
}


class Place(NamedTuple):
    """A chain that stands under a kernel chain's name: its hook, None for none, and its handle."""

    hook: Hook | None
    handle: int


class Roots(NamedTuple):
    """How a table hangs in the kernel.

    Shape: `usurped`: kernel chain → the handle of the chain that stands in its place and is another.
    """

    asleep: bool = False
    usurped: Mapping[str, int] = {}


def roots(table: TableName, *, asleep: bool, places: Mapping[str, Place]) -> Roots:
    """Tell what is other than the tool makes it; a chain that is not there is the tool's to make."""
    wrong = {n: p.handle for n, p in places.items() if p.hook != HOOKS[table][n]}
    return Roots(asleep, wrong)


def other_names(chain: str) -> tuple[str, ...]:
    """Return what a chain that stands in a kernel chain's place may be called instead, the first that is free."""
    return tuple(f"{chain}-foreign{n}" for n in ("", *range(2, 10)))
