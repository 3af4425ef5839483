"""What others changed of ours, found by comparing a fresh reading with what we knew.

Pure. It tells what and where; who did it cannot be known. Repair is not its business: the next plan sees the
same difference.
"""

from collections.abc import Mapping
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


def in_sets(known: AddressSets, read: Mapping[str, tuple[SetSpec, Content]]) -> list[Found]:
    """Compare sets: absent ones, and ones with other content."""
    found = []
    for name, spec in sorted(known.specs.actual.items()):
        if name not in read:
            found.append(Found("set", name, "destroyed"))
            continue
        now_spec, now = read[name]
        before = known.content(name).actual
        if now_spec != spec:
            found.append(Found("set", name, "replaced by another kind of set"))
        elif before != now:
            lost = sum(1 for element in before if element not in now)
            gained = sum(1 for element in now if element not in before)
            detail = f"{lost} members removed, {gained} added, others changed"
            found.append(Found("set", name, detail))
    return found


def in_table(family: Family, table: TableName, known: TableState, read: TableState) -> list[Found]:
    """Compare a table: chains of ours, and our lines in kernel chains."""
    found = []
    for chain, hashes in sorted(known.chains.items()):
        where = f"{family} {table} {chain}"
        if chain not in read.chains:
            found.append(Found("chain", where, "deleted"))
        elif read.chains[chain] != hashes:
            found.append(Found("chain", where, "changed"))
    for chain, lines in sorted(known.kernel.items()):
        ours = [line.hash for line in lines if line.hash is not None]
        now = [line.hash for line in read.kernel.get(chain, ()) if line.hash is not None]
        first = [line.hash for line in read.kernel.get(chain, ())[: len(ours)]]
        if ours != now:
            found.append(Found("jump", f"{family} {table} {chain}", "removed or repeated"))
        elif ours and lines[0].hash is not None and first != ours:
            found.append(Found("jump", f"{family} {table} {chain}", "a line was put before it"))
    return found


def in_routes(known: Mapping[RouteKey, Route], read: Mapping[RouteKey, Route]) -> list[Found]:
    """Compare routes."""
    return [
        Found("route", route.cidr, "deleted" if key not in read else f"changed to {read[key]}")
        for key, route in sorted(known.items())
        if read.get(key) != route
    ]
