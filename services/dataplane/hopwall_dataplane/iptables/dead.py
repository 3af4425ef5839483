"""Lines that no packet meets any more, as what replaces them stands before them: they go with the next sweep.

nf_tables makes a new line wait until the kernel has let go of all that were taken out (8-24 ms), of the other
family too. So what replaces a short chain is put in front of it, and nothing is taken out while somebody waits.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.chains import TableChains
from hopwall_dataplane.iptables.driver import Restore
from hopwall_dataplane.iptables.plan import Plan
from hopwall_dataplane.iptables.table import TableState, dead_lines
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.stale import TableKey

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
        desired: Mapping[TableKey, TableChains],
    ) -> set[TableKey]:
        """Take them out; return the tables that are not as believed, and must be read again."""
        doubtful = set()
        for key, names in self._chains.items():
            for name in sorted(names):
                bodies = desired[key].desired.get(name)
                if not _trim(restores[key[0]], key, name, tables[key], bodies):
                    doubtful.add(key)
        self._chains.clear()
        return doubtful


def _trim(
    restore: Restore,
    key: TableKey,
    name: str,
    table: TableState,
    bodies: tuple[str, ...] | None,
) -> bool:
    stands = table.chains.get(name)
    if bodies is None or stands is None or not dead_lines(name, bodies, stands):
        return True  # it is another chain by now
    try:
        done = restore.trim(key[1], name, stands[len(bodies)] or "")
    except OSError as error:
        log.warning("lines of %s that nothing meets stay for now: %s", name, error)
        done = False
    if done:
        table.chains[name] = stands[: len(bodies)]
    return done
