"""What the phases of migrations mean for endpoints: which routes they claim, and where somebody is expected.

Pure.
"""

from collections.abc import Mapping

from hopwall_dataplane.destinations import Local
from hopwall_dataplane.moves.phases import ELEVATED, SETTLED, YIELDING, Expected, Moves
from hopwall_dataplane.nat import externals
from hopwall_dataplane.placed import LinkState, Placed
from hopwall_dataplane.routes.route import TABLE_MAIN, Route, RouteKey
from hopwall_model.updates import EndpointId, EndpointSet


def claims_of(endpoint: EndpointSet, interface: str, moves: Moves) -> dict[str, Local]:
    """Return the endpoint's claims on routes: none on what it is still to get, or has given away."""
    claims = {}
    for cidr in (*endpoint.addresses, *externals(endpoint)):
        priority = moves.priority(endpoint.id, cidr)
        if priority is not None:
            claims[cidr] = Local(interface, priority)
    return claims


def standing(endpoint: EndpointSet, actual: Mapping[RouteKey, Route]) -> dict[str, int]:
    """Return where routes to the endpoint stand by a migration: what an agent before us left."""
    found = {}
    for cidr in (*endpoint.addresses, *externals(endpoint)):
        for priority in (YIELDING, SETTLED, ELEVATED):
            route = actual.get(RouteKey(cidr, TABLE_MAIN, priority))
            if route is not None and route.interface == endpoint.interface:
                found[cidr] = priority
    return found


def expected(
    moves: Moves, placed: Mapping[EndpointId, Placed], links: Mapping[str, LinkState]
) -> dict[EndpointId, Expected]:
    """Return where workloads are to arrive, of the interfaces that are present and up."""
    found = {}
    for endpoint_id, addresses in moves.expected().items():
        its = placed[endpoint_id]
        interface = its.endpoint.interface
        link = links.get(interface)
        if not its.fault and link is not None and link.up:
            found[endpoint_id] = Expected(interface, link.index, addresses)
    return found
