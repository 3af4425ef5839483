"""Which parts of the kernel must be read again before what we know of them is trusted.

Pure. It refuses to say what changed: whoever reads compares.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from hopwall_dataplane.iptables.table import TableKey
from hopwall_dataplane.routes.route import RouteKey


class Stale(StrEnum):
    """A subsystem whose actual state must be read again before it is trusted."""

    SETS = "sets"
    TABLES = "tables"
    ROUTES = "routes"
    SYSCTLS = "sysctls"


@dataclass(slots=True)
class Doubts:
    """What may be other than believed: whole subsystems, and of the others single tables, sets and links.

    Shape: `links` are the indices of interfaces whose sysctls are in doubt, and the host's own with them. `routes` are
           places where another route was put before or beside ours; the whole subsystem is in doubt with them.
    """

    whole: set[Stale] = field(default_factory=set)
    tables: set[TableKey] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)
    links: set[int] = field(default_factory=set)
    routes: set[RouteKey] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Tell whether anything is in doubt."""
        return bool(self.whole or self.tables or self.sets or self.links)

    @property
    def parts(self) -> set[Stale | TableKey]:
        """What is in doubt, by what is read at one pace: subsystems, and single tables."""
        found: set[Stale | TableKey] = {*self.whole, *self.tables}
        found |= {Stale.SETS} if self.sets else set()
        return found | ({Stale.SYSCTLS} if self.links else set())

    def add(self, other: "Doubts") -> None:
        """Doubt what the other doubts too."""
        self.whole |= other.whole
        self.tables |= other.tables
        self.sets |= other.sets
        self.links |= other.links
        self.routes |= other.routes

    def take(self, part: Stale | TableKey) -> "Doubts":
        """Take out one of the parts."""
        if not isinstance(part, Stale):
            self.tables.discard(part)
            return Doubts(tables={part})
        taken = Doubts(self.whole & {part})
        self.whole -= taken.whole
        if part is Stale.SETS:
            taken.sets, self.sets = self.sets, set()
        elif part is Stale.SYSCTLS:
            taken.links, self.links = self.links, set()
        elif part is Stale.ROUTES:
            taken.routes, self.routes = self.routes, set()
        return taken
