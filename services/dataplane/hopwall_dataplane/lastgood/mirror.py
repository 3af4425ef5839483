"""Everything a host was told, as whole values: what a snapshot taken now would say.

Pure. It refuses to render, and to decide whether what it holds is to be believed.
"""

from dataclasses import dataclass, field

from hopwall_dataplane.feed import Step
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

    def fold(self, step: Step) -> None:
        """Take in one complete step."""
        self.epoch, self.revision = step.epoch, step.revision
        if step.full:
            self.endpoints.clear()
            self.host_endpoints.clear()
            self.pieces.clear()
            self._needs.clear()
            self._bgp = None
        for scope in step.fresh:
            self.pieces.pop(scope, None)
        for update in step.updates:
            self._put(update)

    def _put(self, update: Update) -> None:
        match update:
            case EndpointSet():
                self.endpoints[update.id] = update
            case EndpointRemoved():
                self.endpoints.pop(update.id, None)
            case HostEndpointSet():
                self.host_endpoints[update.id] = update
            case HostEndpointRemoved():
                self.host_endpoints.pop(update.id, None)
            case BgpSet():
                self._bgp = update
            case NeedSet():
                self._needs[update.scope] = update
            case NeedRemoved():
                self._needs.pop(update.scope, None)
                self.pieces.pop(update.scope, None)
            case _:
                self._put_piece(update)

    def _put_piece(self, piece: SharedPiece) -> None:
        if isinstance(piece, PolicySet):
            self.pieces[piece.scope] = {0: piece}
            return
        held = self.pieces.setdefault(piece.scope, {})
        other = next(iter(held.values()), None)
        if isinstance(other, SetBucket | RoutesBucket) and other.n_buckets != piece.n_buckets:
            held.clear()  # another number of buckets means that all follow
        held[piece.bucket] = piece

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
