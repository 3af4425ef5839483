"""A host's kernel in memory: sets, routes and tables that a `Kernel` can be built on, and be failed by."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.ipsets.driver import IpsetDriver
from hopwall_dataplane.ipsets.elements import (
    AddElements,
    CreateSet,
    DelElements,
    DestroySet,
    Element,
    ElementsRefused,
    Mark,
    SetOp,
    SetSpec,
    SwapSets,
)
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.static import RenderSettings
from hopwall_dataplane.iptables.table import GUARD, TableName
from hopwall_dataplane.iptables.transaction import Applied, Failed, Transaction
from hopwall_dataplane.kernel import Kernel
from hopwall_dataplane.links.setup import InterfaceSetup
from hopwall_dataplane.links.sysctl import SysctlDriver
from hopwall_dataplane.marks import layout
from hopwall_dataplane.outcome import Done, Family, Outcome, Retry
from hopwall_dataplane.placed import LinkState
from hopwall_dataplane.routes.driver import RouteDriver
from hopwall_dataplane.routes.route import ReplaceRoute, Route, RouteKey, RouteOp
from tests.support.fake_iptables import FakeRestore, FakeTables

SETTINGS = RenderSettings(marks=layout(), prefixes=("tap",))
LINKS = {f"tap{i}": LinkState(index=i, up=True) for i in range(4)}
Held = dict[str, tuple[SetSpec, dict[Element, Mark | None]]]


class FakeSets:
    """Sets by name, as the driver reads and writes them."""

    def __init__(self) -> None:
        self.held: Held = {}
        #: Members no set takes.
        self.refused: set[str] = set()
        #: Outcomes of the next ops, in place of the real ones; None for the real one.
        self.fail_next: list[Outcome | None] = []

    def read(self) -> Held:
        """Return a copy of all."""
        return {name: (spec, dict(content)) for name, (spec, content) in self.held.items()}

    def apply(self, ops: Sequence[SetOp]) -> list[Outcome]:
        """Carry out ops in order."""
        return [self._one(op) for op in ops]

    def _one(self, op: SetOp) -> Outcome:
        if self.fail_next and (outcome := self.fail_next.pop(0)) is not None:
            return outcome
        absent = [name for name in _needed(op) if name not in self.held]
        if absent:
            return Retry(f"set {absent[0]} does not exist")
        match op:
            case CreateSet():
                if op.spec.name in self.held:
                    return Retry(f"set {op.spec.name} stands already")
                self.held[op.spec.name] = (op.spec, {})
            case DestroySet():
                self.held.pop(op.name, None)
            case SwapSets():
                a, b = self.held[op.name], self.held[op.other]
                self.held[op.name], self.held[op.other] = b, a
            case AddElements():
                return self._add(op)
            case DelElements():
                for element in op.elements:
                    self.held[op.spec.name][1].pop(element, None)
                    self.passing(element)
        return Done()

    def _add(self, op: AddElements) -> Outcome:
        good = {e: m for e, m in op.elements.items() if e.cidr not in self.refused}
        for element, mark in good.items():
            self.held[op.spec.name][1][element] = mark
            self.passing(element)
        bad = dict.fromkeys(op.elements.keys() - good.keys(), "no")
        return ElementsRefused("no", bad) if bad else Done()

    def passing(self, element: Element) -> None:
        """Let packets by behind an element that changed, as the kernel does."""


def _needed(op: SetOp) -> tuple[str, ...]:
    """Return the sets that must be there for an op."""
    if isinstance(op, SwapSets):
        return (op.name, op.other)
    return (op.spec.name,) if isinstance(op, AddElements | DelElements) else ()


class FakeRoutes:
    """Our routes by key."""

    def __init__(self) -> None:
        self.held: dict[RouteKey, Route] = {}

    def read(self) -> dict[RouteKey, Route]:
        """Return a copy of all."""
        return dict(self.held)

    def apply(self, ops: Sequence[RouteOp]) -> list[Outcome]:
        """Carry out ops in order."""
        for op in ops:
            if isinstance(op, ReplaceRoute):
                self.held[op.key] = op.route
            else:
                self.held.pop(op.key, None)
        return [Done()] * len(ops)


class _Restore(FakeRestore):
    """A fake that tells the host when something was written."""

    def __init__(self, family: Family, host: "FakeHost") -> None:
        super().__init__(family, host.tables[family])
        self._host = host

    async def apply(
        self, tx: Transaction, *, timeout_s: float | None = None
    ) -> Applied | Failed | Retry:
        """Apply one transaction, and tell."""
        outcome = await super().apply(tx, timeout_s=timeout_s)
        self._host.told()
        self._host.settled()
        return outcome

    def trim(self, table: TableName, guards: Mapping[str, str]) -> bool:
        """Take out what no packet meets, and tell."""
        done = super().trim(table, guards)
        self._host.told()
        self._host.settled()
        return done


class _Sets(FakeSets):
    def __init__(self, host: "FakeHost") -> None:
        super().__init__()
        self._host = host

    def passing(self, element: Element) -> None:
        """Say that one element is other than it was."""
        self._host.passing(element)

    def apply(self, ops: Sequence[SetOp]) -> list[Outcome]:
        """Carry out ops in order, and say that all of them are."""
        outcomes = super().apply(ops)
        self._host.settled()
        return outcomes

    def _one(self, op: SetOp) -> Outcome:
        if isinstance(op, DestroySet) and self._host.names(op.name):
            return Retry(f"set {op.name} is in use")
        outcome = super()._one(op)
        for tables in self._host.tables.values():
            tables.sets = set(self.held)
        self._host.told()
        return outcome


class FakeHost:
    """One host, whose kernel outlives its agents.

    Shape: `told` is called after each thing that was written, `settled` after those written at once, `passing`
           after each element of a set.
    """

    def __init__(self, name: str = "h1", links: Mapping[str, LinkState] = LINKS) -> None:
        self.name = name
        self.links = links
        self.told: Callable[[], None] = lambda: None
        self.settled: Callable[[], None] = lambda: None
        self.passing: Callable[[Element], None] = lambda _: None
        self.tables = {family: FakeTables() for family in Family}
        self.restores = {f: _Restore(f, self) for f in Family}
        self.sets: FakeSets = _Sets(self)
        self.routes = FakeRoutes()

    def agent(self) -> Kernel:
        """Return the kernel as an agent without memory sees it."""
        desired = Desired(self.name, SETTINGS, tuple(Family), "169.254.1.1")
        desired.set_links(self.links)
        return Kernel(
            desired=desired,
            restores={f: cast(Restore, restore) for f, restore in self.restores.items()},
            sets=cast(IpsetDriver, self.sets),
            routes=cast(RouteDriver, self.routes),
            interfaces=InterfaceSetup(SysctlDriver(Path("/nowhere")), prefixes=("tap",)),
        )

    def names(self, set_name: str) -> bool:
        """Tell whether a line names a set."""
        return any(
            f"-set {set_name} " in line
            for tables in self.tables.values()
            for table in tables.tables.values()
            for chain in table.values()
            for line in chain.lines
        )

    def chain(self, family: Family, name: str, table: str = "filter") -> list[str] | None:
        """Return the lines of a chain that packets meet, without our comments; None when there is no such chain."""
        chain = self.tables[family].tables[table].get(name)
        if chain is None:
            return None
        lines = [x.partition(" -m comment")[0] for x in chain.lines]
        return lines[: lines.index(GUARD)] if GUARD in lines else lines
