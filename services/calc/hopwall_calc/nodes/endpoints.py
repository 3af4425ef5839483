"""endpoints: what each endpoint's host must know of it, be it a workload's or the host's own."""

from collections.abc import Iterable

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput, HostEndpointInput, profile_id
from hopwall_calc.nodes import addresses, endpoint_policies
from hopwall_calc.nodes.addresses import Owned
from hopwall_calc.nodes.endpoint_policies import Applied
from hopwall_model.resources import Key
from hopwall_model.updates import EndpointSet, HostEndpointSet, PolicyId
from hopwall_model.validate_kinds import ANY_INTERFACE

Placed = tuple[str, EndpointSet | HostEndpointSet]


class Endpoints(KeyedNode[Key, Placed]):
    """Endpoint → its host, and its value for that host."""

    name = "endpoints"

    def __init__(
        self,
        endpoints: KeyedNode[Key, EndpointInput],
        host_endpoints: KeyedNode[Key, HostEndpointInput],
        owned: KeyedNode[Key, Owned],
        applied: KeyedNode[Key, Applied],
    ) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._host_endpoints = host_endpoints.out
        self._owned = owned.out
        self._applied = applied.out

    def on_endpoints(self) -> Answer:
        """Mark the changed endpoints."""
        return self.mark(self._endpoints.changed)

    def on_host_endpoints(self) -> Answer:
        """Mark the changed host endpoints."""
        return self.mark(self._host_endpoints.changed)

    def on_addresses(self) -> Answer:
        """Mark the endpoints that gained or lost an address."""
        return self.mark(self._owned.changed)

    def on_endpoint_policies(self) -> Answer:
        """Mark the endpoints whose policies changed."""
        return self.mark(self._applied.changed)

    def keys(self) -> Iterable[Key]:
        """Return every endpoint."""
        return (*self._endpoints, *self._host_endpoints)

    def compute(self, key: Key) -> Placed | None:
        """Return the endpoint with its addresses and policies."""
        applied = self._applied.get(key) or endpoint_policies.NOTHING
        endpoint = self._endpoints.get(key)
        if endpoint is not None:
            return endpoint.host, self._workload(key, endpoint, applied)
        host_endpoint = self._host_endpoints.get(key)
        if host_endpoint is not None:
            return host_endpoint.host, _host_endpoint(host_endpoint, applied)
        return None

    def _workload(self, key: Key, endpoint: EndpointInput, applied: Applied) -> EndpointSet:
        owned = self._owned.get(key) or addresses.NOTHING
        return EndpointSet(
            id=endpoint.id,
            interface=endpoint.interface,
            addresses=owned.addresses,
            extra_sources=endpoint.extra_sources,
            mac=endpoint.mac,
            nats=owned.nats,
            lost=owned.lost,
            tiers=applied.tiers,
            profiles=_profiles(endpoint),
            move=owned.move,
        )


def _host_endpoint(endpoint: HostEndpointInput, applied: Applied) -> HostEndpointSet:
    # Calico: untracked policies are for named interfaces and addresses.
    untracked = () if endpoint.interface == ANY_INTERFACE else applied.untracked
    return HostEndpointSet(
        id=endpoint.id,
        interface=endpoint.interface,
        expected_ips=endpoint.addresses,
        tiers=applied.tiers,
        profiles=_profiles(endpoint),
        forward=applied.forward,
        pre_dnat=applied.pre_dnat,
        untracked=untracked,
        force=endpoint.force,
    )


def _profiles(endpoint: EndpointInput | HostEndpointInput) -> tuple[PolicyId, ...]:
    return tuple(profile_id(name) for name in endpoint.profiles)
