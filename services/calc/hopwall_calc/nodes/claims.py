"""claims: who claims each address, the one who has it first.

Endpoints of one workload (same namespace, orchestrator, workload and endpoint) are one party: the workload is
at one of them. Of the parties the oldest wins, as nobody may take another's address. Within a party the last
one wins, as that is where the workload went: the highest move generation, then the youngest. So what is left
behind of a move, or comes back late, attracts nothing.
"""

from collections.abc import Iterable
from typing import Any

from hopwall_calc.engine import Answer, KeyedNode, Node, Table
from hopwall_calc.intake import EndpointInput
from hopwall_model.resources import Key


class Claims(Node):
    """Address → the keys of its claimants; the first has it."""

    name = "claims"

    def __init__(self, endpoints: KeyedNode[Key, EndpointInput]) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self.out: Table[str, tuple[Key, ...]] = Table()
        #: What is being changed: address → its claimants, in no order.
        self._touched: dict[str, set[Key]] = {}

    def on_endpoints(self) -> Answer:
        """Move the claims of the changed endpoints."""
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            for address in () if old is None else claimed(old):
                self._of(address).discard(key)
            for address in () if new is None else claimed(new):
                self._of(address).add(key)
        return Answer.HANDLED if self._touched else Answer.UNAFFECTED

    def _of(self, address: str) -> set[Key]:
        found = self._touched.get(address)
        if found is None:
            found = self._touched[address] = set(self.out.get(address) or ())
        return found

    def finish(self) -> None:
        """Put the claimants in order."""
        touched, self._touched = self._touched, {}
        for address, keys in touched.items():
            self.out.put(address, self._in_order(keys) if keys else None)

    def _in_order(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        endpoints = self._endpoints.values
        oldest_first = sorted(keys, key=lambda key: (_age(endpoints[key]), key))
        if len(oldest_first) == 1:
            return tuple(oldest_first)
        party = party_of(oldest_first[0], endpoints[oldest_first[0]])
        mine = [key for key in oldest_first if party_of(key, endpoints[key]) == party]
        mine.sort()
        mine.sort(key=lambda key: (endpoints[key].generation, _age(endpoints[key])), reverse=True)
        return (*mine, *(key for key in oldest_first if key not in mine))

    def recompute(self) -> None:
        """Collect the claims anew."""
        self._touched = {address: set() for address in self.out}
        for key, endpoint in self._endpoints.values.items():
            for address in claimed(endpoint):
                self._touched.setdefault(address, set()).add(key)
        self.finish()

    def has_changes(self) -> bool:
        """Tell whether an address has other claimants, or another order of them."""
        return bool(self.out.changed)

    def settle(self) -> None:
        """Forget what changed."""
        self.out.settle()

    def facts(self) -> Any:
        """Return the claimants by address."""
        return dict(self.out.values)


def claimed(endpoint: EndpointInput) -> tuple[str, ...]:
    """Return the addresses that an endpoint claims, floating ones included."""
    if not endpoint.nats:
        return endpoint.addresses
    return (*endpoint.addresses, *(nat.external for nat in endpoint.nats))


def _age(endpoint: EndpointInput) -> str:
    """Return what sorts by age; an endpoint of unknown age is younger than all others."""
    return endpoint.created or "~"


def party_of(key: Key, endpoint: EndpointInput) -> tuple[Any, ...]:
    """Return what is equal for endpoints of one workload; who names no workload is alone."""
    if not endpoint.workload:
        return (key,)
    return (endpoint.namespace, endpoint.orchestrator, endpoint.workload, endpoint.endpoint)
