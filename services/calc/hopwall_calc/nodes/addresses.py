"""addresses: which of its addresses each endpoint owns, and which floating addresses lead to them.

Two endpoints that claim one address cannot both have it: `claims` says who does. The other one is without it
everywhere: in its own rules, in sets and in routes. The one exception are the two endpoints of a live
migration: both own what they share, and one of them attracts it (`Owned.move`). A floating address is claimed
like any other; one that leads to an address that the endpoint lost leads nowhere. The loser's host is told
what it lost and to whom, for the status.
"""

from collections.abc import Iterable

from msgspec import Struct

from hopwall_calc.engine import Answer, KeyedNode
from hopwall_calc.intake import EndpointInput
from hopwall_calc.nodes.claims import Claims, claimed, party_of
from hopwall_calc.nodes.roles import Role
from hopwall_model.resources import Key
from hopwall_model.updates import Lost, Move, Nat


class Owned(Struct, frozen=True, gc=False):
    """An endpoint's addresses, its floating ones, and what others own, in the order it declared them."""

    addresses: tuple[str, ...] = ()
    nats: tuple[Nat, ...] = ()
    lost: tuple[Lost, ...] = ()
    #: Its part in a migration, if any address is shared.
    move: Move | None = None


#: What whoever is absent owns.
NOTHING = Owned()


class Addresses(KeyedNode[Key, Owned]):
    """Endpoint → what it owns."""

    name = "addresses"

    def __init__(
        self,
        endpoints: KeyedNode[Key, EndpointInput],
        claims: Claims,
        roles: KeyedNode[Key, Role],
    ) -> None:
        super().__init__()
        self._endpoints = endpoints.out
        self._claims = claims.out
        self._roles = roles.out

    def on_endpoints(self) -> Answer:
        """Mark the changed endpoints, and who claims the same as one that is another workload's now.

        No claim changes by that, but whether the others have lost or moved theirs does.
        """
        dirty = set(self._endpoints.changed)
        for key, old in self._endpoints.changed.items():
            new = self._endpoints.get(key)
            if old is None or new is None or party_of(key, old) == party_of(key, new):
                continue
            for address in claimed(new):
                dirty.update(self._claims.get(address) or ())
        return self.mark(dirty)

    def on_claims(self) -> Answer:
        """Mark whoever claims, or claimed, the changed addresses."""
        dirty: set[Key] = set()
        for address, old in self._claims.changed.items():
            dirty.update(old or (), self._claims.get(address) or ())
        return self.mark(dirty)

    def on_roles(self) -> Answer:
        """Mark the endpoints whose roles changed, and their peers."""
        dirty: set[Key] = set()
        for key, old in self._roles.changed.items():
            roles = (role for role in (old, self._roles.get(key)) if role is not None)
            dirty.update((key, *(role.peer for role in roles)))
        return self.mark(dirty)

    def keys(self) -> Iterable[Key]:
        """Return every endpoint."""
        return self._endpoints

    def compute(self, key: Key) -> Owned | None:
        """Return the addresses that the endpoint's claim wins, or shares with its peer's."""
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            return None
        peer = self._peer(key)
        addresses = tuple(a for a in endpoint.addresses if self._owns(key, peer, a))
        nats = tuple(
            nat
            for nat in endpoint.nats
            if nat.internal in addresses and self._owns(key, peer, nat.external)
        )
        lost = tuple(
            Lost(address, self._endpoints.values[owner].id)
            for address in claimed(endpoint)
            if not self._owns(key, peer, address)
            for owner in (self._claims.get(address) or ())[:1]
            # What the same workload has elsewhere now has moved: nobody took it.
            if party_of(key, endpoint) != party_of(owner, self._endpoints.values[owner])
        )
        move = None
        if peer is not None:
            move = self._move(key, (*addresses, *(nat.external for nat in nats)))
        return Owned(addresses, nats, lost, move)

    def _peer(self, key: Key) -> Key | None:
        """Return the other endpoint of the migration, if that one is in the same."""
        role = self._roles.get(key)
        if role is None:
            return None
        its = self._roles.get(role.peer)
        return role.peer if its is not None and its.peer == key else None

    def _owns(self, key: Key, peer: Key | None, address: str) -> bool:
        claims = self._claims.get(address) or ()
        return claims[:1] == (key,) or (peer is not None and claims[:1] == (peer,))

    def _move(self, key: Key, owned: Iterable[str]) -> Move | None:
        role = self._roles.values[key]
        peer = self._endpoints.values[role.peer]
        shared = tuple(sorted(a for a in owned if role.peer in (self._claims.get(a) or ())))
        if not shared:
            return None
        return Move(
            role=role.role,
            migration=role.migration,
            peer=peer.id,
            host=peer.host,
            addresses=shared,
            switched=role.switched,
        )
