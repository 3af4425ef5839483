"""Whose an address of this host is, and of whose flows something changed since somebody looked.

Pure. It refuses to know flows: it says of which addresses they must be looked at again.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from hopwall_dataplane.claims import Claims
from hopwall_dataplane.classes import PolicyClass
from hopwall_dataplane.faults import is_address
from hopwall_model.updates import EndpointId, EndpointSet


@dataclass(frozen=True, slots=True)
class Touched:
    """Of which addresses the flows must be looked at.

    Shape: packed addresses. `left` belong to nobody here any more, or to somebody else: what they had ends.
    """

    addresses: frozenset[bytes]
    left: frozenset[bytes]
    #: Every flow, as what host endpoints say of it may be something else.
    hosts: bool = False

    def __bool__(self) -> bool:
        """Say whether there is anything to look at."""
        return bool(self.addresses or self.left or self.hosts)


@dataclass(slots=True)
class Residents:
    """The class of each workload address of this host.

    Shape: `_numbers` are the classes of whose policies something changed.
    """

    classes: dict[bytes, PolicyClass] = field(default_factory=dict)
    _claims: Claims[bytes, EndpointId, PolicyClass] = field(default_factory=Claims)
    _addresses: set[bytes] = field(default_factory=set)
    _left: set[bytes] = field(default_factory=set)
    _numbers: set[int] = field(default_factory=set)
    _everything: bool = True

    def move(
        self,
        owner: EndpointId,
        before: Iterable[str],
        after: Iterable[str],
        policy_class: PolicyClass | None,
    ) -> None:
        """Take the addresses (as CIDRs) an endpoint had and has, and the class it has; None is no class."""
        for cidr in before:
            self._claims.drop(packed(cidr), owner)
        if policy_class is not None:
            for cidr in after:
                self._claims.put(packed(cidr), owner, policy_class)
        for cidr in {*before, *after}:
            self._settle(packed(cidr))

    def _settle(self, address: bytes) -> None:
        winner = self._claims.winner(address)
        if winner is None:
            self.classes.pop(address, None)
        elif self.classes.get(address) != winner:
            self.classes[address] = winner
            self._addresses.add(address)

    def touch(self, classes: Iterable[PolicyClass]) -> None:
        """Have the flows of all who are in these classes looked at."""
        self._numbers.update(c.number for c in classes)

    def touch_all(self) -> None:
        """Have every flow looked at."""
        self._everything = True

    def leave(self, address: bytes) -> None:
        """Note that a (packed) address has left the interface it was at."""
        self._left.add(address)

    @property
    def leaving(self) -> Set[bytes]:
        """The (packed) addresses that have left and whose flows nobody has ended yet; not to be changed."""
        return self._left

    def retranslate(self, before: EndpointSet | None, after: EndpointSet | None) -> None:
        """Note the floating addresses that no longer lead where they led."""
        had, has = (set(endpoint.nats if endpoint else ()) for endpoint in (before, after))
        self._left.update(packed(nat.external) for nat in had - has if is_address(nat.external))

    @property
    def touched(self) -> bool:
        """Whether anything changed since `take`."""
        return bool(self._everything or self._addresses or self._left or self._numbers)

    def take(self) -> Touched:
        """Return what was touched, and begin anew.

        Cost: O(addresses here).
        """
        addresses = self._held(self.classes)
        found = Touched(addresses, frozenset(self._left))
        self._addresses, self._left, self._numbers = set(), set(), set()
        self._everything = False
        return found

    def _held(self, classes: Mapping[bytes, PolicyClass]) -> frozenset[bytes]:
        if self._everything:
            return frozenset(classes)
        if not self._numbers:
            return frozenset(self._addresses)
        numbers = self._numbers
        of_class = (address for address, c in classes.items() if c.number in numbers)
        return frozenset((*self._addresses, *of_class))


def packed(cidr: str) -> bytes:
    """Return the address of a CIDR as the kernel writes it: 4 or 16 bytes."""
    return ipaddress.ip_address(cidr.partition("/")[0]).packed
