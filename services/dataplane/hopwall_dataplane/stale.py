"""Which parts of the kernel must be read again before what we know of them is trusted.

Pure. It refuses to say what changed: whoever reads compares.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from hopwall_dataplane.iptables.table import TableName
from hopwall_dataplane.outcome import Family


class Stale(StrEnum):
    """A subsystem whose actual state must be read again before it is trusted."""

    SETS = "sets"
    TABLES = "tables"
    ROUTES = "routes"
    SYSCTLS = "sysctls"


TableKey = tuple[Family, TableName]


@dataclass(slots=True)
class Doubts:
    """What may be other than believed: whole subsystems, and of the others single tables and sets."""

    whole: set[Stale] = field(default_factory=set)
    tables: set[TableKey] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Tell whether anything is in doubt."""
        return bool(self.whole or self.tables or self.sets)

    @property
    def subsystems(self) -> set[Stale]:
        """The subsystems of which something is in doubt."""
        found = set(self.whole)
        if self.tables:
            found.add(Stale.TABLES)
        if self.sets:
            found.add(Stale.SETS)
        return found

    def add(self, other: "Doubts") -> None:
        """Doubt what the other doubts too."""
        self.whole |= other.whole
        self.tables |= other.tables
        self.sets |= other.sets

    def take(self, subsystem: Stale) -> "Doubts":
        """Take out what is about one subsystem."""
        taken = Doubts(self.whole & {subsystem})
        self.whole -= taken.whole
        if subsystem is Stale.TABLES:
            taken.tables, self.tables = self.tables, set()
        elif subsystem is Stale.SETS:
            taken.sets, self.sets = self.sets, set()
        return taken
