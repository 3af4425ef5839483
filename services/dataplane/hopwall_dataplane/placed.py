"""An endpoint of this host, what it has put into the desired state, and the interfaces there are.

Pure.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hopwall_dataplane.classes import PolicyClass
from hopwall_dataplane.ipsets.elements import Element, Mark
from hopwall_dataplane.iptables.static import from_set, relay_set, to_set
from hopwall_dataplane.links.sources import Senders, spoofs
from hopwall_dataplane.marks import MarkLayout
from hopwall_dataplane.outcome import Family
from hopwall_model.updates import EndpointSet

#: The kernel set's name, and the element in it.
ElementKey = tuple[str, Element]


@dataclass(frozen=True, slots=True)
class LinkState:
    """What matters of a network interface here."""

    index: int
    up: bool
    #: Bare addresses, without prefix length.
    addresses: frozenset[str] = frozenset()


@dataclass(slots=True)
class Placed:
    """An endpoint with its place.

    Shape: without a class it is closed; `fault` is why, or "" where there was no room for its class.
    """

    endpoint: EndpointSet
    fault: str
    policy_class: PolicyClass | None
    elements: dict[ElementKey, Mark | None]
    routes: frozenset[str] = frozenset()


def senders_of(endpoints: Iterable[Placed]) -> Senders:
    """Return what the endpoints of an interface send from; one that is closed sends nothing."""
    open_ones = [placed.endpoint for placed in endpoints if placed.policy_class is not None]
    return Senders(
        tuple(cidr for endpoint in open_ones for cidr in endpoint.addresses),
        any(spoofs(endpoint.extra_sources) for endpoint in open_ones),
    )


def elements_of(
    endpoint: EndpointSet,
    policy_class: PolicyClass,
    marks: MarkLayout,
    programs: Callable[[str], bool],
) -> dict[ElementKey, Mark | None]:
    """Return what says whose an endpoint's addresses are, of those for which this host has anything."""
    source = Mark(marks.source.place(policy_class.number), marks.source.mask)
    destination = Mark(marks.destination.place(policy_class.number), marks.destination.mask)
    elements: dict[ElementKey, Mark | None] = {}
    relayed = {Family.of(cidr) for cidr in endpoint.extra_sources}
    for cidr in filter(programs, (*endpoint.addresses, *endpoint.extra_sources)):
        family, element = Family.of(cidr), Element(cidr, endpoint.interface)
        elements[from_set(family), element] = source
        if family in relayed:
            elements[relay_set(family), element] = None
    for cidr in filter(programs, endpoint.addresses):
        elements[to_set(Family.of(cidr)), Element(cidr)] = destination
    return elements
