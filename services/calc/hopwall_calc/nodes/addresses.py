"""addresses: which of its addresses each endpoint owns, and which floating addresses lead to them.

Two endpoints that claim one address cannot both have it: the older one wins, by creation time, then by
key. The other one is without it everywhere: in its own rules, in sets and in routes. A floating address is
claimed like any other; one that leads to an address that the endpoint lost leads nowhere. The loser's host
is told what it lost and to whom, for the status.
"""

from collections.abc import Iterable

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput
from hopwall_model.resources import Key
from hopwall_model.updates import Lost, Nat


class Owned(Struct, frozen=True, gc=False):
    """An endpoint's addresses, its floating ones, and what others own, in the order it declared them."""

    addresses: tuple[str, ...] = ()
    nats: tuple[Nat, ...] = ()
    lost: tuple[Lost, ...] = ()


#: What whoever is absent owns.
NOTHING = Owned()


class Addresses(KeyedNode[Key, Owned]):
    """Endpoint → what it owns."""

    name = "addresses"

    def __init__(self, endpoints: KeyedNode[Key, EndpointInput]) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        #: Address → its claimants as (created, key), the owner first.
        self.claims: dict[str, tuple[tuple[str, Key], ...]] = {}

    def on_endpoints(self) -> Answer:
        """Mark the changed endpoints, and whoever claims an address of theirs."""
        touched: set[str] = set()
        dirty: set[Key] = set()
        for key, old in self._endpoints.changed.items():
            dirty.add(key)
            new = self._endpoints.get(key)
            if old is not None:
                touched.update(self._drop(key, old))
            if new is not None:
                touched.update(self._claim(key, new))
        for address in touched:
            claims = self.claims.get(address, ())
            if len(claims) > 1 or (claims and claims[0][1] not in dirty):
                dirty.update(key for _, key in claims)
        return self.mark(dirty)

    def _claim(self, key: Key, endpoint: EndpointInput) -> Iterable[str]:
        claim = (_age(endpoint), key)
        claimed = _claimed(endpoint)
        for address in claimed:
            self.claims[address] = tuple(sorted((*self.claims.get(address, ()), claim)))
        return claimed

    def _drop(self, key: Key, endpoint: EndpointInput) -> Iterable[str]:
        claimed = _claimed(endpoint)
        for address in claimed:
            rest = tuple(claim for claim in self.claims[address] if claim[1] != key)
            if rest:
                self.claims[address] = rest
            else:
                del self.claims[address]
        return claimed

    def rebuild(self) -> None:
        """Collect the claims anew."""
        self.claims = {}
        for key, endpoint in self._endpoints.values.items():
            self._claim(key, endpoint)

    def keys(self) -> Iterable[Key]:
        """Return every endpoint."""
        return self._endpoints

    def compute(self, key: Key) -> Owned | None:
        """Return the addresses of which the endpoint's claim is the oldest."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return None
        owners = {address: self.claims[address][0][1] for address in _claimed(endpoint)}
        lost = tuple(
            Lost(address, self._endpoints.values[owner].id)
            for address, owner in owners.items()
            if owner != key
        )
        addresses = endpoint.addresses
        if lost:
            addresses = tuple(address for address in addresses if owners[address] == key)
        nats = (
            nat
            for nat in endpoint.nats
            if nat.internal in addresses and owners[nat.external] == key
        )
        return Owned(addresses, tuple(nats), lost)


def _claimed(endpoint: EndpointInput) -> tuple[str, ...]:
    if not endpoint.nats:
        return endpoint.addresses
    return (*endpoint.addresses, *(nat.external for nat in endpoint.nats))


def _age(endpoint: EndpointInput) -> str:
    """Return what sorts by age; an endpoint of unknown age is younger than all others."""
    return endpoint.created or "~"
