"""Everything a host was told, as whole values: what a snapshot taken now would say.

Pure. It refuses to render, and to decide whether what it holds is to be believed.
"""

import hashlib
import ipaddress
from collections.abc import Hashable
from dataclasses import dataclass, field

from hopwall_dataplane.feed import Step
from hopwall_model import codec
from hopwall_model.updates import (
    BgpSet,
    EndpointId,
    EndpointRemoved,
    EndpointSet,
    HostEndpointId,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    PolicySet,
    RoutesBucket,
    Scope,
    SetBucket,
    SharedPiece,
    Update,
)

_BYTES = 16
_MODULUS = 1 << 8 * _BYTES


@dataclass(slots=True)
class _Sum:
    """A digest of things by key that costs what changes: the sum of the digests of each.

    Cost: some microseconds for each thing that is put, by the length of its text.
    """

    _parts: dict[Hashable, int] = field(default_factory=dict)
    _total: int = 0

    def put(self, key: Hashable, update: Update) -> None:
        """Take a thing, in place of what was at the key."""
        self.drop(key)
        text = codec.encode(update)
        part = int.from_bytes(hashlib.blake2b(text, digest_size=_BYTES).digest())
        self._parts[key] = part
        self._total = (self._total + part) % _MODULUS

    def drop(self, key: Hashable) -> None:
        """Take what is at the key out."""
        self._total = (self._total - self._parts.pop(key, 0)) % _MODULUS

    @property
    def digest(self) -> str:
        """Return it as an address with its prefix length; never the one that means none."""
        return f"{ipaddress.IPv6Address(self._total or 1)}/128"


@dataclass(slots=True)
class Mirror:
    """The fold of all steps.

    Shape: `pieces` is scope → bucket → piece (a policy is its scope's bucket 0). The values are those the steps
           brought, so it costs references.
    """

    epoch: str = ""
    revision: int = 0
    endpoints: dict[EndpointId, EndpointSet] = field(default_factory=dict)
    host_endpoints: dict[HostEndpointId, HostEndpointSet] = field(default_factory=dict)
    pieces: dict[Scope, dict[int, SharedPiece]] = field(default_factory=dict)
    _needs: dict[Scope, NeedSet] = field(default_factory=dict)
    _bgp: BgpSet | None = None
    _sum: _Sum = field(default_factory=_Sum)

    @property
    def digest(self) -> str:
        """Tell what is held from anything else that was: an address, as sets hold it, of the whole state.

        Shape: of what is enforced alone: an epoch, a revision or a need changes nothing.
        """
        return self._sum.digest

    def fold(self, step: Step) -> None:
        """Take in one complete step."""
        self.epoch, self.revision = step.epoch, step.revision
        if step.full:
            self.endpoints.clear()
            self.host_endpoints.clear()
            self.pieces.clear()
            self._needs.clear()
            self._bgp = None
            self._sum = _Sum()
        for scope in step.fresh:
            self._drop_scope(scope)
        for update in step.updates:
            self._put(update)

    def _put(self, update: Update) -> None:
        match update:
            case EndpointSet():
                self.endpoints[update.id] = update
                self._sum.put((EndpointSet, update.id), update)
            case EndpointRemoved():
                self.endpoints.pop(update.id, None)
                self._sum.drop((EndpointSet, update.id))
            case HostEndpointSet():
                self.host_endpoints[update.id] = update
                self._sum.put((HostEndpointSet, update.id), update)
            case HostEndpointRemoved():
                self.host_endpoints.pop(update.id, None)
                self._sum.drop((HostEndpointSet, update.id))
            case BgpSet():
                self._bgp = update
                self._sum.put(BgpSet, update)
            case NeedSet():
                self._needs[update.scope] = update
            case NeedRemoved():
                self._needs.pop(update.scope, None)
                self._drop_scope(update.scope)
            case _:
                self._put_piece(update)

    def _put_piece(self, piece: SharedPiece) -> None:
        if isinstance(piece, PolicySet):
            self.pieces[piece.scope] = {0: piece}
            self._sum.put((piece.scope, 0), piece)
            return
        held = self.pieces.setdefault(piece.scope, {})
        other = next(iter(held.values()), None)
        if isinstance(other, SetBucket | RoutesBucket) and other.n_buckets != piece.n_buckets:
            self._drop_scope(piece.scope)  # another number of buckets means that all follow
            held = self.pieces.setdefault(piece.scope, {})
        held[piece.bucket] = piece
        self._sum.put((piece.scope, piece.bucket), piece)

    def _drop_scope(self, scope: Scope) -> None:
        for bucket in self.pieces.pop(scope, {}):
            self._sum.drop((scope, bucket))

    def step(self) -> Step:
        """Return what is held as one full step."""
        updates: list[Update] = [p for held in self.pieces.values() for p in held.values()]
        updates += self._needs.values()
        updates += self.endpoints.values()
        updates += self.host_endpoints.values()
        if self._bgp is not None:
            updates.append(self._bgp)
        return Step(
            self.epoch,
            self.revision,
            full=True,
            updates=tuple(updates),
            fresh=frozenset(self.pieces),
        )
