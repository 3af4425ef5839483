"""What a host makes of the messages it gets: a dumb dataplane without a kernel, strict about versions."""

from collections.abc import Callable

from msgspec import Struct

from hopwall_model.bgp import Bgp
from hopwall_model.updates import (
    BgpSet,
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    HostBatch,
    HostEndpointId,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    PolicyId,
    PolicySet,
    ResolvedRule,
    RoutesBucket,
    Scope,
    SetBucket,
    SetId,
    SharedPiece,
    SharedUpdate,
)


class HostState(Struct, kw_only=True):
    """Everything one host must enforce, as plain values; equal states are equal hosts."""

    endpoints: dict[EndpointId, EndpointSet] = {}
    host_endpoints: dict[HostEndpointId, HostEndpointSet] = {}
    #: Tier, rules of both directions, what is said to be wrong, and whether it is a profile nobody declared.
    policies: dict[
        PolicyId, tuple[str, tuple[ResolvedRule, ...], tuple[ResolvedRule, ...], str, bool]
    ] = {}
    sets: dict[SetId, frozenset[str]] = {}
    #: The sets of addresses with a port.
    port_sets: dict[SetId, frozenset[str]] = {}
    #: Host → gateways of both families, addresses.
    routes: dict[str, tuple[str, str, frozenset[str]]] = {}
    bgp: Bgp | None = None


class _Scope:
    """The pieces held of one shared scope."""

    def __init__(self) -> None:
        self.version = 0
        self.pieces: dict[int, SharedPiece] = {}

    def take(self, piece: SharedPiece) -> None:
        """Take in a piece: it begins the scope anew or follows the one held."""
        if piece.previous == 0:
            self.pieces = {}
        else:
            assert piece.previous == self.version, f"{piece.scope}: a piece was missed"
        assert piece.version > self.version, f"{piece.scope}: versions must grow"
        self.version = piece.version
        if isinstance(piece, PolicySet):
            self.pieces = {0: piece}
            return
        if any(
            not isinstance(held, PolicySet) and held.n_buckets != piece.n_buckets
            for held in self.pieces.values()
        ):
            self.pieces = {}
        self.pieces[piece.bucket] = piece


class FoldedHost:
    """One host that listens from the beginning and misses nothing."""

    def __init__(self, host: str, ask: Callable[[str], HostBatch]) -> None:
        self.host = host
        self._ask = ask
        self.epoch = ""
        self.number = 0
        self.revision = 0
        self.n_snapshots = 0
        self._endpoints: dict[EndpointId, EndpointSet] = {}
        self._host_endpoints: dict[HostEndpointId, HostEndpointSet] = {}
        self._bgp: Bgp | None = None
        self._needs: dict[Scope, int] = {}
        self._scopes: dict[Scope, _Scope] = {}

    def on_shared(self, update: SharedUpdate) -> None:
        """Take in a shared update if it is of a scope this host subscribes to."""
        if update.epoch == self.epoch and update.piece.scope in self._needs:
            self._scopes[update.piece.scope].take(update.piece)

    def on_batch(self, batch: HostBatch) -> None:
        """Take in a batch; ask for a snapshot at a new epoch or a gap."""
        assert batch.host == self.host
        if batch.epoch != self.epoch or batch.number not in (self.number, self.number + 1):
            self.n_snapshots += 1
            snapshot = self._ask(self.host)
            assert snapshot.full
            assert snapshot.epoch == batch.epoch
            assert snapshot.number == batch.number
            self._endpoints, self._host_endpoints, self._bgp = {}, {}, None
            self._needs, self._scopes = {}, {}
            batch = snapshot
        self._apply(batch)

    def _apply(self, batch: HostBatch) -> None:
        self.epoch, self.number, self.revision = batch.epoch, batch.number, batch.revision
        order = 0
        for update in batch.updates:
            place = _PLACES[type(update)]
            assert place >= order, f"{update} comes too late"
            order = place
            match update:
                case EndpointSet():
                    self._endpoints[update.id] = update
                case EndpointRemoved():
                    del self._endpoints[update.id]
                case HostEndpointSet():
                    self._host_endpoints[update.id] = update
                case HostEndpointRemoved():
                    del self._host_endpoints[update.id]
                case BgpSet():
                    self._bgp = update.bgp
                case NeedSet():
                    assert self._scopes[update.scope].version == update.version
                    self._needs[update.scope] = update.version
                case NeedRemoved():
                    del self._needs[update.scope]
                    del self._scopes[update.scope]
                case _:
                    self._scopes.setdefault(update.scope, _Scope()).take(update)
        assert self._scopes.keys() == self._needs.keys()
        for scope, version in self._needs.items():
            assert self._scopes[scope].version == version, f"{scope} is not at its needed version"

    def state(self) -> HostState:
        """Return what this host would enforce."""
        state = HostState(
            endpoints=dict(self._endpoints),
            host_endpoints=dict(self._host_endpoints),
            bgp=self._bgp,
        )
        for held in self._scopes.values():
            pieces = [held.pieces[number] for number in sorted(held.pieces)]
            first = pieces[0]
            if isinstance(first, PolicySet):
                state.policies[first.id] = (
                    first.tier,
                    first.ingress,
                    first.egress,
                    first.fault,
                    first.absent,
                )
                continue
            assert len(pieces) == first.n_buckets, f"{first.scope} is not whole"
            if isinstance(first, SetBucket):
                buckets = [p for p in pieces if isinstance(p, SetBucket)]
                found = [m for p in buckets for m in p.members]
                assert {p.type for p in buckets} == {first.type}
                sets = state.port_sets if first.type == "port" else state.sets
                sets[first.id] = frozenset(found)
            else:
                assert isinstance(first, RoutesBucket)
                found = [c for p in pieces if isinstance(p, RoutesBucket) for c in p.cidrs]
                gateways = {
                    (p.gateway_v4, p.gateway_v6) for p in pieces if isinstance(p, RoutesBucket)
                }
                assert len(gateways) == 1
                state.routes[first.host] = (first.gateway_v4, first.gateway_v6, frozenset(found))
            assert len(found) == len(set(found))
        return state


_PLACES: dict[type, int] = {
    SetBucket: 0,
    PolicySet: 0,
    RoutesBucket: 0,
    NeedSet: 1,
    EndpointSet: 2,
    HostEndpointSet: 2,
    BgpSet: 2,
    EndpointRemoved: 3,
    HostEndpointRemoved: 3,
    NeedRemoved: 4,
}
