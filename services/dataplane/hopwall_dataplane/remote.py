"""What a snapshot takes away of others: addresses that other hosts have, and members of sets that keep somebody out.

A host's own objects have names that calc can account for (`guard`). Of these it has only the values, so they are judged
only where the store is surely another one, or an older copy: there no event can account for anything.

Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_model.epochs import store_of
from hopwall_model.updates import (
    EndpointSet,
    HostBatch,
    PolicySet,
    RoutesBucket,
    SetBucket,
    SetId,
    Update,
)


class Loss(NamedTuple):
    """What the host has of something, what of it the snapshot has nowhere, and how much there is now."""

    had: set[str]
    gone: set[str]
    n_now: int


def goes_back(held: Mirror, snapshot: HostBatch) -> bool:
    """Tell whether a snapshot is of another store than the host's state, or of an older copy."""
    had, has = store_of(held.epoch), store_of(snapshot.epoch)
    if had and has and had != has:
        return True
    return snapshot.revision < held.revision


def losses(held: Mirror, snapshot: HostBatch) -> Mapping[str, Loss]:
    """Return what is gone of the addresses on each host, and of the members of each set that keeps somebody out.

    Shape: an address that is on another host now, or on this one, is not gone. Of a set that only lets in, what is gone
           closes; whoever it was is missing elsewhere.
    """
    had_on, had_in = _values(piece for scope in held.pieces.values() for piece in scope.values())
    has_on, has_in = _values(snapshot.updates)
    keeping_out = set(_keeping_out(u for u in snapshot.updates if isinstance(u, PolicySet)))
    own = {a for u in snapshot.updates if isinstance(u, EndpointSet) for a in u.addresses}
    anywhere = own.union(*has_on.values())
    found = {
        f"addresses of host {host}": Loss(had, had - anywhere, len(has_on.get(host, ())))
        for host, had in had_on.items()
    }
    return found | {
        f"members of set {name}": Loss(had, had - has_in[name], len(has_in[name]))
        for name, had in had_in.items()
        if name in has_in and name in keeping_out
    }


def _values(pieces: Iterable[Update]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the addresses by host, and the members by set."""
    on: dict[str, set[str]] = {}
    within: dict[str, set[str]] = {}
    for piece in pieces:
        if isinstance(piece, RoutesBucket):
            on.setdefault(piece.host, set()).update(piece.cidrs)
        elif isinstance(piece, SetBucket):
            within.setdefault(piece.id, set()).update(piece.members)
    return on, within


def _keeping_out(policies: Iterable[PolicySet]) -> Iterator[SetId]:
    """Yield the sets without whose members a rule lets by more: of a deny or a pass, and those an allow excepts."""
    for policy in policies:
        for rule in (*policy.ingress, *policy.egress):
            for side in (rule.source, rule.destination):
                if rule.action in ("deny", "pass"):
                    yield from (*side.sets, *side.port_sets)
                elif rule.action == "allow":
                    yield from (*side.not_sets, *side.not_port_sets)
