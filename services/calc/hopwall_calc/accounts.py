"""What has become of objects that a host has and its snapshot lacks: taken away by an event, put elsewhere, or lost.

A host does not obey a snapshot that lacks much of what it has unless calc accounts for it (decision 20). Only an
event accounts for a removal: a stream that was emptied, cut short or exchanged has none.
"""

from collections.abc import Callable, Iterable

from hopwall_model.resources import Key

_POLICY_KINDS = {"gnp": "GlobalNetworkPolicy", "np": "NetworkPolicy", "profile": "Profile"}


def key_of(name: str) -> Key | None:
    """Return the resource behind "endpoint d/a", "host endpoint h1-eth0", "policy np/d/p"; None if there is none."""
    kind, _, rest = name.rpartition(" ")
    parts = rest.split("/")
    if kind == "endpoint" and len(parts) == 2:
        return Key("WorkloadEndpoint", parts[0], parts[1])
    if kind == "host endpoint" and len(parts) == 1:
        return Key("HostEndpoint", "", rest)
    if kind == "policy" and parts[0] in _POLICY_KINDS and len(parts) in (2, 3):
        return Key(_POLICY_KINDS[parts[0]], parts[1] if len(parts) == 3 else "", parts[-1])
    return None


class Removals:
    """The resources that an event took away, as far as the stream still says so.

    Shape: hashes, as there may be very many; a collision explains one object too much.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._hashes: set[int] = set()

    def note(self, key: Key, *, removed: bool) -> None:
        """Take in that a resource was removed, or is there."""
        if removed:
            self._hashes.add(hash(key))
        else:
            self._hashes.discard(hash(key))

    def forget(self) -> None:
        """Begin anew: the stream will say it again."""
        self._hashes.clear()

    def __contains__(self, key: object) -> bool:
        return hash(key) in self._hashes


def accounted(
    names: Iterable[str], host: str, removals: Removals, declared: Callable[[Key], object]
) -> tuple[str, ...]:
    """Return those of the names whose absence on the host an event explains.

    Shape: `declared` gives what was understood of a resource, None if nothing. An endpoint that is declared for this
           very host should be there: its absence is not explained.
    """
    found = []
    for name in names:
        key = key_of(name)
        if key is None:
            continue
        value = declared(key)
        if key in removals or (value is not None and getattr(value, "host", None) != host):
            found.append(name)
    return tuple(found)
