"""What others changed of ours, found by comparing a fresh reading with what we knew.

Pure. It tells what and where; who did it cannot be known. Repair is not its business: the next plan sees the
same difference.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hopwall_dataplane.ipsets.elements import Content, SetSpec
from hopwall_dataplane.ipsets.plan import AddressSets
from hopwall_dataplane.iptables.table import TableName, TableState
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.routes.route import Route, RouteKey


@dataclass(frozen=True, slots=True)
class Found:
    """One object of ours that others changed."""

    object: str
    name: str
    detail: str

    @property
    def label(self) -> str:
        """What it is, without what happened to it."""
        return f"{self.object} {self.name}"


#: How many of its members a set's drift names.
_NAMED = 3


def in_sets(
    known: AddressSets,
    read: Mapping[str, tuple[SetSpec, Content]],
    names: Collection[str] | None = None,
) -> list[Found]:
    """Compare sets, or those of `names`: absent ones, and ones with other content."""
    found = []
    for name, spec in sorted(known.specs.actual.items()):
        if names is not None and name not in names:
            continue
        if name not in read:
            found.append(Found("set", name, "destroyed"))
            continue
        now_spec, now = read[name]
        before = known.content(name).actual
        if now_spec != spec:
            found.append(Found("set", name, "replaced by another kind of set"))
        elif before != now:
            found.append(Found("set", name, _difference(before, now)))
    return found


def _difference(before: Content, now: Content) -> str:
    """Say how the content of a set differs, with some of the members."""
    kinds = {
        "removed": sorted(element for element in before if element not in now),
        "added": sorted(element for element in now if element not in before),
        "changed": sorted(e for e, mark in before.items() if e in now and now[e] != mark),
    }
    parts = []
    for what, elements in kinds.items():
        if elements:
            named = [f"{e.cidr} {e.interface}".rstrip() for e in elements[:_NAMED]]
            more = f" and {len(elements) - _NAMED} more" if len(elements) > _NAMED else ""
            parts.append(f"{what}: {', '.join(named)}{more}")
    return f"of {len(before)} members {'; '.join(parts)}"


def in_table(family: Family, table: TableName, known: TableState, read: TableState) -> list[Found]:
    """Compare a table: chains of ours, and our lines in kernel chains."""
    found = []
    if known.chains and read.asleep and not known.asleep:
        found.append(
            Found("table", f"{family} {table}", "put to sleep: no packet met any of its lines")
        )
    for chain, hashes in sorted(known.chains.items()):
        where = f"{family} {table} {chain}"
        if chain not in read.chains:
            found.append(Found("chain", where, "deleted"))
        elif read.chains[chain] != hashes:
            detail = f"changed from {len(hashes)} lines to {len(read.chains[chain])} or other ones"
            found.append(Found("chain", where, detail))
    for chain, lines in sorted(known.kernel.items()):
        ours = [line.hash for line in lines if line.hash is not None]
        now = [line.hash for line in read.kernel.get(chain, ()) if line.hash is not None]
        first = [line.hash for line in read.kernel.get(chain, ())[: len(ours)]]
        if ours and chain in read.usurped:
            detail = "a foreign chain stood in its place without its hook; that goes on under another name"
            found.append(Found("jump", f"{family} {table} {chain}", detail))
        elif ours != now:
            found.append(Found("jump", f"{family} {table} {chain}", "removed or repeated"))
        elif ours and lines[0].hash is not None and first != ours:
            found.append(Found("jump", f"{family} {table} {chain}", "a line was put before it"))
    return found


def in_routes(
    known: Mapping[RouteKey, Route],
    read: Mapping[RouteKey, Route],
    beside: Collection[RouteKey] = (),
) -> list[Found]:
    """Compare routes; those `beside` which others were put stand no more."""
    found = []
    for key, route in sorted(known.items()):
        if read.get(key) == route:
            continue
        detail = f"changed from {route} to {read[key]}" if key in read else f"deleted: {route}"
        if key in beside:
            detail = f"another was put before or beside it: {route}"
        found.append(Found("route", route.cidr, detail))
    return found
