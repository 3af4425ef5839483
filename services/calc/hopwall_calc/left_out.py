"""Which declared resources are not enforced as they say, and why; and of which the last good value is wanted.

A resource that is not understood is absent, which closes whom it concerns: but not where it is one that takes away. Who
was kept out by such a resource must not be let in by a bad value of it, so what it said last still stands: live the
value that is there, after a start one that the stream still has.

Pure.
"""

from hopwall_model.resources import Key
from hopwall_model.status import MAX_LEFT_OUT, LeftOut

#: Without them somebody may be open: a host's interface, whom a policy selects, whom a rule denies by a set.
KEEPS_OUT = (
    "HostEndpoint",
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "NetworkSet",
    "GlobalNetworkSet",
)
_MAX_REASON = 500


class LeftOuts:
    """What is left out now. Owner: the graph."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._reasons: dict[Key, str] = {}
        #: Those whose last good value is to be looked up in the stream.
        self.wanted: set[Key] = set()

    def note(self, key: Key, reason: str) -> None:
        """Take in that a resource is not enforced as it says."""
        self._reasons[key] = reason[:_MAX_REASON]

    def clear(self, key: Key) -> None:
        """Take in that it is, or that it is gone."""
        self._reasons.pop(key, None)
        self.wanted.discard(key)

    def named(self) -> tuple[LeftOut, ...]:
        """Return them for the status; of very many the first."""
        found = sorted((str(key), reason) for key, reason in self._reasons.items())
        return tuple(LeftOut(name, reason) for name, reason in found[:MAX_LEFT_OUT])
