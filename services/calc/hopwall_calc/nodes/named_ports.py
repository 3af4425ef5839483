"""named_ports: the addresses and ports at which each endpoint is reached by a port's name.

Of a workload these are the addresses it owns, of a host those expected of it.
"""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput, HostEndpointInput
from hopwall_calc.nodes.addresses import NOTHING, Owned
from hopwall_model.resources import Key

#: (protocol, name) → members of a set of kind "port".
PortMembers = dict[tuple[int, str], tuple[str, ...]]


class NamedPorts(KeyedNode[Key, PortMembers]):
    """Endpoint → its named ports; those that name none have no value."""

    name = "named_ports"

    def __init__(
        self,
        endpoints: KeyedNode[Key, EndpointInput],
        host_endpoints: KeyedNode[Key, HostEndpointInput],
        addresses: KeyedNode[Key, Owned],
    ) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._host_endpoints = host_endpoints.out
        self._addresses = addresses.out

    def on_endpoints(self) -> Answer:
        """Mark the endpoints whose ports changed."""
        return self.mark(
            key
            for key, old in self._endpoints.changed.items()
            if (old.ports if old else ()) != _ports(self._endpoints.get(key))
        )

    def on_host_endpoints(self) -> Answer:
        """Mark the changed host endpoints."""
        return self.mark(self._host_endpoints.changed)

    def on_addresses(self) -> Answer:
        """Mark the endpoints with ports that gained or lost an address."""
        changed = self._addresses.changed
        return self.mark(key for key in changed if _ports(self._endpoints.get(key)))

    def keys(self) -> Iterable[Key]:
        """Return every endpoint."""
        return (*self._endpoints, *self._host_endpoints)

    def compute(self, key: Key) -> PortMembers | None:
        """Return the endpoint's ports at each of its addresses."""
        endpoint = self._endpoints.get(key) or self._host_endpoints.get(key)
        if endpoint is None or not endpoint.ports:
            return None
        addresses = endpoint.addresses
        if isinstance(endpoint, EndpointInput):
            addresses = (self._addresses.get(key) or NOTHING).addresses
        found: dict[tuple[int, str], list[str]] = {}
        for protocol, name, port in endpoint.ports:
            found.setdefault((protocol, name), []).extend(
                f"{address.partition('/')[0]},{protocol}:{port}" for address in addresses
            )
        return {place: tuple(members) for place, members in found.items() if members} or None


def _ports(endpoint: EndpointInput | None) -> tuple[tuple[int, str, int], ...]:
    return endpoint.ports if endpoint else ()
