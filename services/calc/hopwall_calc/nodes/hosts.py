"""hosts: every host that is declared or has an endpoint of either kind, and how other hosts reach it."""

from collections import Counter
from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import HostInput, NodeInput
from hopwall_calc.nodes.endpoints import Endpoints


class Hosts(KeyedNode[str, HostInput]):
    """Host → its gateways; unknown ones for a host that is not declared."""

    name = "hosts"

    def __init__(self, declared: KeyedNode[str, NodeInput], endpoints: Endpoints) -> None:
        super().__init__()
        self._declared = declared.out
        self._endpoints = endpoints.out
        self.n_endpoints: Counter[str] = Counter()

    def on_declared(self) -> Answer:
        """Mark the changed hosts."""
        return self.mark(self._declared.changed)

    def on_endpoints(self) -> Answer:
        """Mark hosts that got their first endpoint or lost their last."""
        dirty: set[str] = set()
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            for placed, by in ((old, -1), (new, 1)):
                if placed is not None:
                    self.n_endpoints[placed[0]] += by
                    dirty.add(placed[0])
        return self.mark(
            host for host in dirty if bool(self.n_endpoints[host]) != (host in self.out)
        )

    def rebuild(self) -> None:
        """Count the endpoints anew."""
        self.n_endpoints = Counter(placed[0] for placed in self._endpoints.values.values())

    def keys(self) -> Iterable[str]:
        """Return the hosts that are declared or have an endpoint."""
        return (*self._declared, *self.n_endpoints)

    def compute(self, key: str) -> HostInput | None:
        """Return the host's gateways; None if it is neither declared nor used."""
        declared = self._declared.get(key)
        if declared is None and self.n_endpoints[key] > 0:
            return HostInput()
        if not self.n_endpoints[key]:
            del self.n_endpoints[key]
        return None if declared is None else declared.reached_at
