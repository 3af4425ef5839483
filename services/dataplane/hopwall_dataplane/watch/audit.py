"""Cheap looks at what tells nobody when it changes: address sets, legacy tables, sysctls.

A look takes digests, in a thread, and says which set or table is not what it was at the last look; whether
that was us or somebody else, the reading that follows finds out. A look that costs more comes less often, so
all three together take at most a part in seventy of a core, whatever the size of the host.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hopwall_dataplane.ipsets.codec import elements_in, list_message, listed_name
from hopwall_dataplane.ipsets.elements import is_ours
from hopwall_dataplane.iptables.static import TABLES
from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from hopwall_dataplane.outcome import Family
from hopwall_dataplane.stale import Doubts
from hopwall_dataplane.watch.codec import (
    neighbour_message,
    proxy_delay_in,
    settings_in,
    settings_message,
)
from hopwall_dataplane.watch.legacy import LegacyTables

#: A look takes at most this part of the time, as long as it comes at least once in the longest pause.
_SHARE = 200
_PAUSE_S = (0.5, 20.0)


def pause_s(cost_s: float) -> float:
    """Return how long to wait after a look that cost this much of a core."""
    return min(max(_PAUSE_S[0], _SHARE * cost_s), _PAUSE_S[1])


@dataclass(slots=True)
class Digests:
    """What was seen at the last look, one digest per thing; pure."""

    seen: dict[object, bytes] = field(default_factory=dict)

    def changed(self, now: Mapping[object, bytes]) -> set[object]:
        """Return what is new, gone or other than at the last look, and remember this one."""
        before, self.seen = self.seen, dict(now)
        return {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}


class SetsAudit:
    """Looks at our address sets; the kernel has neither events nor generations of them."""

    def __init__(self) -> None:
        """Open a socket of its own, as it is used in a thread."""
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        self._digests = Digests()

    def look(self) -> Doubts:
        """Return the sets that are not what they were.

        Cost: the kernel's listing, 40 to 80 bytes an element, and a digest over it: 0.1 µs an element.
        """
        running: dict[object, hashlib.blake2b] = {}
        for _, body in self._socket.dump(list_message()):
            name = listed_name(body)
            if is_ours(name):
                held = running.get(name)
                if held is None:
                    held = running[name] = hashlib.blake2b(digest_size=16)
                for part in elements_in(body):
                    held.update(part)
        changed = self._digests.changed({name: one.digest() for name, one in running.items()})
        return Doubts(sets={str(name) for name in changed})

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class SettingsAudit:
    """Looks at the settings of interfaces, those that have events and those that do not."""

    def __init__(self) -> None:
        """Open a socket of its own, as it is used in a thread."""
        self._socket = NetlinkSocket(NETLINK_ROUTE)
        self._digests = Digests()

    def look(self) -> Doubts:
        """Return the interfaces whose settings are not what they were.

        Cost: two listings, 15 µs an interface; reading nine files of each would be 90.
        """
        now: dict[object, bytes] = {}
        for _, body in self._socket.dump(settings_message()):
            index, settings = settings_in(body)
            now[index] = settings
        for _, body in self._socket.dump(neighbour_message()):
            found = proxy_delay_in(body)
            if found is not None and found[0] in now:
                now[found[0]] += found[1]
        changed = self._digests.changed(now)
        # One that is gone is the link monitor's business.
        return Doubts(links={index for index in now if index in changed and isinstance(index, int)})

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class LegacyAudit:
    """Looks at the legacy tables of all families."""

    def __init__(self, families: Iterable[Family]) -> None:
        """Open the sockets."""
        self._tables = {family: LegacyTables(family) for family in families}
        self._digests = Digests()

    def look(self) -> Doubts:
        """Return the tables that are not what they were."""
        now: dict[object, bytes] = {
            (family, table): tables.digest(table)
            for family, tables in self._tables.items()
            for table in TABLES
        }
        found = self._digests.changed(now)
        return Doubts(tables={(f, t) for f in self._tables for t in TABLES if (f, t) in found})

    def close(self) -> None:
        """Close the sockets."""
        for one in self._tables.values():
            one.close()
