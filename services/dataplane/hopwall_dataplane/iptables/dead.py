"""Lines that no packet meets any more, as what replaces them stands before them: they go with the next sweep.

nf_tables makes a new line wait until the kernel has let go of all that were taken out (8-24 ms), of the other
family too. So what replaces a short chain is put in front of it, and nothing is taken out while somebody waits.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.chains import Bodies, ChainBook
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.plan import Plan
from hopwall_dataplane.iptables.table import TableKey, TableState, dead_lines
from hopwall_dataplane.outcome import Family

log = logging.getLogger(__name__)


@dataclass(slots=True)
class DeadLines:
    """Which chains hold any.

    Owner: the agent's one task.
    """

    _chains: dict[TableKey, set[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Say whether a sweep has anything to take out."""
        return any(self._chains.values())

    def note(self, key: TableKey, plan: Plan) -> None:
        """Note what a plan that was carried out left, or found."""
        if plan.dead:
            self._chains.setdefault(key, set()).update(plan.dead)

    def sweep(
        self,
        restores: Mapping[Family, Restore],
        tables: Mapping[TableKey, TableState],
        desired: ChainBook,
    ) -> set[TableKey]:
        """Take them out; return the tables that are not as believed, and must be read again."""
        doubtful = set()
        for key, names in self._chains.items():
            wanted, table = desired.tables[key].desired, tables[key]
            dead = {name: guard for name in sorted(names) if (guard := _dead(name, wanted, table))}
            if dead and not _trim(restores[key[0]], key, dead):
                doubtful.add(key)
                continue
            for name in dead:
                table.chains[name] = table.chains[name][: len(wanted[name])]
        self._chains.clear()
        return doubtful


def _dead(name: str, wanted: Mapping[str, Bodies], table: TableState) -> str:
    """Return the hash of a chain's guard; "" where it is another chain by now."""
    bodies, stands = wanted.get(name), table.chains.get(name)
    if bodies is None or stands is None or not dead_lines(name, bodies, stands):
        return ""
    return stands[len(bodies)] or ""


def _trim(restore: Restore, key: TableKey, guards: Mapping[str, str]) -> bool:
    try:
        return restore.trim(key[1], guards)
    except OSError as error:
        log.warning("lines of table %s that nothing meets stay for now: %s", key[1], error)
        return False
