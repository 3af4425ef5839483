"""An endpoint of this host, what it has put into the desired state, and the interfaces there are.

Pure.
"""

from dataclasses import dataclass

from hopwall_dataplane.classes import PolicyClass
from hopwall_dataplane.ipsets.elements import Element, Mark
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
