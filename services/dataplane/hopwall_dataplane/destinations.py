"""Which route each workload address has here: to a local workload, to its host, or none.

Pure. A destination may be claimed by several at once while things move; who has it depends on the claims
alone. Addresses that hosts live by (the bus, a default gateway, each other) are nobody's workload.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from hopwall_dataplane.claims import Claims
from hopwall_dataplane.delta import Delta
from hopwall_dataplane.faults import is_address, reserved_fault
from hopwall_dataplane.members import BucketedMembers
from hopwall_dataplane.routes.route import TABLE_MAIN, Route, RouteKey
from hopwall_model.updates import EndpointId, RoutesBucket


class Local(NamedTuple):
    """A claim of a workload of this host: its interface, "" while it has none, and its route's priority."""

    interface: str
    priority: int = 0


@dataclass(slots=True)
class Destinations:
    """Claims on addresses, and the routes that follow from them.

    Shape: `programs` tells whether this host has routes for an address at all; `faults` are shared with
           the rest of the desired state: object → why it is not as wanted.
    """

    host: str
    reserved: frozenset[str]
    programs: Callable[[str], bool]
    faults: dict[str, str]
    routes: Delta[RouteKey, Route] = field(default_factory=Delta)
    remote: dict[str, BucketedMembers] = field(default_factory=dict)
    _gateways: dict[str, tuple[str, str]] = field(default_factory=dict)
    _gateway_cidrs: set[str] = field(default_factory=set)
    #: Interfaces of workloads to which a route leads, or led, otherwise than when somebody looked.
    touched: set[str] = field(default_factory=set)
    _local: Claims[str, EndpointId, Local] = field(default_factory=Claims)
    _beyond: Claims[str, str, str] = field(default_factory=Claims)
    #: Destination → the priority its route is wanted with, where it is not the normal one.
    _priorities: dict[str, int] = field(default_factory=dict)

    @property
    def gateway_cidrs(self) -> Set[str]:
        """The addresses other hosts are reached at; to be read, not changed."""
        return self._gateway_cidrs

    def put(self, update: RoutesBucket) -> None:
        """Take a bucket of the addresses on another host."""
        if update.host == self.host:
            return
        state = self.remote.setdefault(update.host, BucketedMembers())
        gateways = (update.gateway_v4, update.gateway_v6)
        if self._gateways.get(update.host, ("", "")) != gateways:
            self._reserve(update.host, gateways)
            state.touch_all()
        state.put(update.n_buckets, update.bucket, update.cidrs)

    def settle(self, host: str) -> None:
        """Bring the routes to what the host's buckets now say."""
        state = self.remote.get(host)
        if state is None:
            return
        added, removed = state.settle()
        for cidr in removed:
            self.faults.pop(f"route {cidr}", None)
            self._beyond.drop(cidr, host)
            self._route(cidr)
        gateways = self._gateways.get(host, ("", ""))
        for cidr in added:
            if not is_address(cidr):
                self.faults[f"route {cidr}"] = f"{cidr!r} on host {host} is not an address."
                continue
            self._beyond.put(cidr, host, gateways[":" in cidr])
            self._route(cidr)
        if state.dropped:
            del self.remote[host]
            self._reserve(host, ("", ""))

    def claim(
        self, endpoint_id: EndpointId, before: frozenset[str], claims: dict[str, Local]
    ) -> None:
        """Take an endpoint's claims for those it had."""
        for cidr in before - claims.keys():
            self._touch(cidr)
            self._local.drop(cidr, endpoint_id)
            self._route(cidr)
        for cidr, local in claims.items():
            self._local.put(cidr, endpoint_id, local)
            self._touch(cidr)
            self._route(cidr)

    def _touch(self, cidr: str) -> None:
        self.touched.update(local.interface for local in self._local.values(cidr))

    def interfaces(self, cidrs: Iterable[str], *, standing: bool) -> dict[str, str]:
        """Return to which interface the route to each address is to lead, or does; "" where there is none."""
        routes = self.routes.actual if standing else self.routes.desired
        found = {}
        for cidr in cidrs:
            route = routes.get(RouteKey(cidr, TABLE_MAIN, self._priorities.get(cidr, 0)))
            found[cidr] = route.interface if route is not None else ""
        return found

    def _reserve(self, host: str, gateways: tuple[str, str]) -> None:
        """Take over how a host is reached; no route of ours may lead its own address elsewhere."""
        before = self._gateways.pop(host, ())
        if any(gateways):
            self._gateways[host] = gateways
        for ip in {*before, *gateways} - {""}:
            cidr = f"{ip}/128" if ":" in ip else f"{ip}/32"
            if any(ip in held for held in self._gateways.values()):
                self._gateway_cidrs.add(cidr)
            else:
                self._gateway_cidrs.discard(cidr)
            self._route(cidr)

    def _route(self, cidr: str) -> None:
        """Want the one right route for a destination: a local workload's, else its host's, else none."""
        if not self.programs(cidr):
            return
        local = self._local.winner(cidr)
        gateway = self._beyond.winner(cidr)
        self.faults.pop(f"route {cidr}", None)
        if cidr in self.reserved or cidr in self._gateway_cidrs:
            self._want(cidr, None)
            if local is not None or gateway is not None:
                self.faults[f"route {cidr}"] = reserved_fault(cidr)
        elif local is not None and local.interface:
            self._want(cidr, Route(cidr, "link", "", local.interface, local.priority))
        elif local is None and gateway:
            self._want(cidr, Route(cidr, "via", gateway=gateway))
        else:
            self._want(cidr, None)

    def _want(self, cidr: str, route: Route | None) -> None:
        """Want this route to the destination and no other; a new priority is a new route and a removal."""
        before = self._priorities.pop(cidr, 0)
        if route is None or route.priority != before:
            self.routes.remove_desired(RouteKey(cidr, TABLE_MAIN, before))
        if route is not None:
            self.routes.set_desired(route.key, route)
            if route.priority:
                self._priorities[cidr] = route.priority
