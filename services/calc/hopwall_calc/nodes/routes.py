"""routes: the workload addresses that live on each host, floating ones included.

Of the two endpoints of a live migration one attracts what they share: the source, until the switch.
"""

from typing import Any

from hopwall_calc.engine import Answer, Node
from hopwall_calc.members import Members
from hopwall_calc.nodes.endpoints import Endpoints, Placed
from hopwall_calc.nodes.hosts import Hosts
from hopwall_model.updates import EndpointSet, RoutesBucket, Scope


def routes_scope(host: str) -> Scope:
    """Return the scope of the addresses on a host."""
    return Scope(f"routes/{host}")


class Routes(Node):
    """Host → the addresses its endpoints own, and its gateways."""

    name = "routes"

    def __init__(self, endpoints: Endpoints, hosts: Hosts) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._hosts = hosts.out
        self.members: dict[str, Members] = {}
        self._touched: set[str] = set()

    def on_endpoints(self) -> Answer:
        """Move the addresses of the changed endpoints."""
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            if _where(old) == _where(new):
                continue
            if new is not None:
                members = self._of(new[0])
                for address in attracted(new):
                    members.add(address)
            if old is not None:
                members = self._of(old[0])
                for address in attracted(old):
                    members.remove(address)
        return Answer.HANDLED if self._touched else Answer.UNAFFECTED

    def on_hosts(self) -> Answer:
        """Note that hosts came, went or changed their gateways."""
        return Answer.HANDLED

    def _of(self, host: str) -> Members:
        self._touched.add(host)
        members = self.members.get(host)
        if members is None:
            members = self.members[host] = Members()
        return members

    def finish(self) -> None:
        """Keep an entry for exactly the known hosts."""
        for host in self._hosts.changed:
            if host in self._hosts:
                self.members.setdefault(host, Members())
            else:
                self.members.pop(host, None)
                self._touched.discard(host)

    def recompute(self) -> None:
        """Collect the addresses of all endpoints anew."""
        found: dict[str, list[str]] = {host: [] for host in self._hosts}
        for placed in self._endpoints.values.values():
            found[placed[0]].extend(attracted(placed))
        self.members = {host: self.members.get(host, Members()) for host in found}
        for host, addresses in found.items():
            self.members[host].replace(addresses)
        self._touched = set(found)

    def has_changes(self) -> bool:
        """Tell whether an address moved."""
        return any(self.members[host].touched() for host in self._touched)

    def settle(self) -> None:
        """Forget what changed."""
        for host in self._touched:
            self.members[host].settle()
        self._touched = set()

    def facts(self) -> Any:
        """Return the addresses by host."""
        return {host: members.everything() for host, members in self.members.items()}

    # ------------------------------------------------------------ as content of scopes

    def dirty_buckets(self) -> dict[Scope, list[int]]:
        """Return the changed buckets by scope; all buckets bear the gateways."""
        found = {host: self.members[host].dirty_buckets() for host in self._touched}
        for host, old in self._hosts.changed.items():
            if old is not None and host in self.members:
                found[host] = list(range(self.members[host].n_buckets))
        return {routes_scope(host): numbers for host, numbers in found.items() if numbers}

    def n_buckets(self, scope: Scope) -> int:
        """Return how many buckets the host's addresses are cut into."""
        return self.members[scope.partition("/")[2]].n_buckets

    def piece(self, scope: Scope, *, bucket: int, version: int, previous: int) -> RoutesBucket:
        """Return one bucket as it travels."""
        host = scope.partition("/")[2]
        members, gateways = self.members[host], self._hosts.values[host]
        return RoutesBucket(
            host=host,
            version=version,
            previous=previous,
            n_buckets=members.n_buckets,
            bucket=bucket,
            gateway_v4=gateways.gateway_v4,
            gateway_v6=gateways.gateway_v6,
            cidrs=members.bucket(bucket),
        )


def _where(placed: Placed | None) -> tuple[str, tuple[str, ...]] | None:
    return None if placed is None else (placed[0], attracted(placed))


def attracted(placed: Placed) -> tuple[str, ...]:
    """Return the addresses that other hosts must send to the endpoint's host now."""
    owned, endpoint = routed(placed), placed[1]
    if not isinstance(endpoint, EndpointSet) or endpoint.move is None:
        return owned
    move = endpoint.move
    if (move.role == "target") == move.switched:
        return owned
    return tuple(address for address in owned if address not in move.addresses)


def routed(placed: Placed) -> tuple[str, ...]:
    """Return the addresses for which other hosts may be sent to the endpoint's; a host's own are not ours."""
    endpoint = placed[1]
    if not isinstance(endpoint, EndpointSet):
        return ()
    if not endpoint.nats:
        return endpoint.addresses
    return (*endpoint.addresses, *(nat.external for nat in endpoint.nats))
