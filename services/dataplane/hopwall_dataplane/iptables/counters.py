"""How often each rule was met: `iptables-save -c` → packets and bytes per identity.

The kernel counts per line. A rule's count is the sum over its lines in all tables and families, without
those that only go along with another of the same rule (`table.bearing`). Counts begin at zero whenever the
kernel gets a line anew: when its chain is rewritten, and at boot.

Pure. Source: iptables-save(8), `-c`: `[packets:bytes] -A chain …`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hopwall_dataplane.iptables.parse import identity_in
from hopwall_dataplane.iptables.table import is_ours

_LINE = re.compile(r"\[(\d+):(\d+)\] -A (\S+) ")
#: What stands behind it was replaced, and no packet meets it (`table.GUARD`): it bears no identity.
_GUARD = re.compile(r'\[\S+ -A \S+ -m comment --comment "?hw:[\w-]{16}"? -j RETURN')


@dataclass(frozen=True, slots=True)
class Count:
    """What was met so far."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: "Count") -> "Count":
        """Add up what two lines met."""
        return Count(self.packets + other.packets, self.bytes + other.bytes)


def read_counts(text: str) -> dict[str, Count]:
    """Add up the counters of saved tables by identity; zero where no line of an identity counts yet.

    Errors: never; a line that is not understood is not ours.
    Cost:   O(text), about 1 µs a line.
    """
    found: dict[str, Count] = {}
    guarded: set[str] = set()
    for line in text.splitlines():
        numbers = _LINE.match(line)
        if line.startswith("*"):
            guarded.clear()
        if numbers is None or not is_ours(numbers[3]) or numbers[3] in guarded:
            continue
        if _GUARD.fullmatch(line):
            guarded.add(numbers[3])
        identity, counts = identity_in(line)
        if identity:
            met = Count(int(numbers[1]), int(numbers[2])) if counts else Count()
            found[identity] = found.get(identity, Count()) + met
    return found


def together(parts: Iterable[Mapping[str, Count]]) -> dict[str, Count]:
    """Add up the counts of several families."""
    found: dict[str, Count] = {}
    for part in parts:
        for identity, count in part.items():
            found[identity] = found.get(identity, Count()) + count
    return found
