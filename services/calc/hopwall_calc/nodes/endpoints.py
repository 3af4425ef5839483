"""endpoints: what each endpoint's host must know of it."""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput, profile_id
from hopwall_model.resources import Key
from hopwall_model.updates import EndpointSet, TierPolicies

Placed = tuple[str, EndpointSet]


class Endpoints(KeyedNode[Key, Placed]):
    """Endpoint → its host, and its value for that host."""

    name = "endpoints"

    def __init__(
        self,
        endpoints: KeyedNode[Key, EndpointInput],
        addresses: KeyedNode[Key, tuple[str, ...]],
        endpoint_policies: KeyedNode[Key, tuple[TierPolicies, ...]],
    ) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._addresses = addresses.out
        self._tiers = endpoint_policies.out

    def on_endpoints(self) -> Answer:
        """Mark the changed endpoints."""
        return self.mark(self._endpoints.changed)

    def on_addresses(self) -> Answer:
        """Mark the endpoints that gained or lost an address."""
        return self.mark(self._addresses.changed)

    def on_endpoint_policies(self) -> Answer:
        """Mark the endpoints whose policies changed."""
        return self.mark(self._tiers.changed)

    def keys(self) -> Iterable[Key]:
        """Return every endpoint."""
        return self._endpoints

    def compute(self, key: Key) -> Placed | None:
        """Return the endpoint with its addresses and policies."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return None
        return endpoint.host, EndpointSet(
            id=endpoint.id,
            interface=endpoint.interface,
            addresses=self._addresses.get(key) or (),
            extra_sources=endpoint.extra_sources,
            mac=endpoint.mac,
            tiers=self._tiers.get(key) or (),
            profiles=tuple(profile_id(name) for name in endpoint.profiles),
        )
