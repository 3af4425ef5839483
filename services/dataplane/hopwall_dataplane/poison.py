"""Steps that the fold fails on: which of their updates are to blame, and a desired state without them.

What is left out is closed: an endpoint is unknown, a policy or a set that is not there denies, and a host endpoint,
which would open its interface if it went, stays as one without policies.

Pure. Cost: nothing that counts while all is well; else a fold of everything the host was told per trial.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.feed import Step
from hopwall_dataplane.iptables.table import check_chain
from hopwall_dataplane.lastgood.mirror import Mirror
from hopwall_dataplane.moves.phases import Moves
from hopwall_dataplane.rule_sets import object_of
from hopwall_model.poison import failing
from hopwall_model.status import Refusal
from hopwall_model.updates import (
    BgpSet,
    EndpointRemoved,
    EndpointSet,
    HostEndpointRemoved,
    HostEndpointSet,
    NeedRemoved,
    NeedSet,
    PolicySet,
    Update,
)

#: What people know the update's object by, and which of its buckets it is.
_Key = tuple[str, int]


class Poison:
    """The updates that the fold cannot bear, and why."""

    def __init__(self) -> None:
        """Begin with none."""
        self._reasons: dict[_Key, str] = {}

    def apply(self, desired: Desired, step: Step, told: Mirror) -> Exception | None:
        """Fold a step into `desired`; what makes that fail is left out and named.

        Shape:  `told` is all that was told before the step. Returns what it failed with: then `desired` was begun
                again, and the kernel's state must be read again.
        Errors: whatever the fold raises, if leaving updates out does not help; `desired` is then undefined.
        """
        keys = {_key(update) for update in step.updates}
        try:
            _fold(desired, step)
        except Exception as error:  # noqa: BLE001 - any bug that a value meets; it is told, with its object
            self._begin_again(desired, _after(told, step), error)
            return error
        if step.full:
            self._reasons.clear()
        for key in self._reasons.keys() & keys:
            del self._reasons[key]
        return None

    def refusals(self) -> Iterable[Refusal]:
        """List what is left out."""
        reasons = {name: reason for (name, _), reason in self._reasons.items()}
        return (Refusal(object=name, reason=reason) for name, reason in sorted(reasons.items()))

    def _begin_again(self, desired: Desired, whole: Step, error: Exception) -> None:
        suspects = sorted(whole.updates, key=_blame)

        def works(given: Sequence[Update]) -> bool:
            return _folded(desired, whole, given) is not None

        bad = failing(suspects, works)
        if bad is None:
            raise error
        good = [update for update in suspects if update not in bad]
        closed: list[Update] = [
            HostEndpointSet(id=u.id, interface=u.interface, expected_ips=u.expected_ips)
            for u in bad
            if isinstance(u, HostEndpointSet)
        ]
        fresh = _folded(desired, whole, (*good, *closed))
        if fresh is None:
            raise error
        for one in fields(desired):  # in place, as others hold it
            setattr(desired, one.name, getattr(fresh, one.name))
        why = f"{type(error).__name__}: {error}"[:200]
        text = f"The agent fails on it ({why}), so it is closed: change it, and report the fault."
        self._reasons = {_key(update): text for update in bad}


def _fold(desired: Desired, step: Step) -> None:
    """Fold, and look at what would be written: a line that cannot be one would end who plans.

    Errors: any.
    """
    desired.apply(step)
    for chains in desired.chains.tables.values():
        for name in chains.dirty & chains.desired.keys():
            check_chain(name, chains.desired[name])


def _folded(like: Desired, whole: Step, updates: Sequence[Update]) -> Desired | None:
    """Return a desired state that knows the kernel as this one does, and was told these; None when it fails."""
    twin = _untold(like)
    try:
        _fold(twin, replace(whole, updates=tuple(updates)))
    except Exception:  # noqa: BLE001 - as in `apply`
        return None
    return twin


def _untold(like: Desired) -> Desired:
    """Return a desired state that was told nothing, and knows the kernel and the interfaces as this one does."""
    twin = Desired(
        host=like.host,
        settings=like.settings,
        families=like.families,
        link_local_gateway=like.link_local_gateway,
        reserved=like.reserved,
        ipv6=like.ipv6,
        nats=like.nats,
        moves=Moves(like.moves.convergence_s, like.moves.with_bgp),
    )
    twin.identity.replace_actual(like.identity.actual)
    twin.members.replace_actual(like.members.actual)
    twin.routes.replace_actual(like.routes.actual)
    twin.classes.remember(like.classes.numbers)
    for address in like.residents.leaving:
        twin.residents.leave(address)
    twin.set_links(like.links, like.hosts.ways)
    return twin


def _after(told: Mirror, step: Step) -> Step:
    """Return all that was told, the step included, as one."""
    whole = Mirror()
    if not step.full:
        whole.fold(told.step())
    whole.fold(step)
    return whole.step()


def _blame(update: Update) -> int:
    """Tell whom to blame rather, of several that fail together only: a policy, and not who it applies to."""
    match update:
        case PolicySet():
            return 2
        case EndpointSet() | HostEndpointSet():
            return 0
        case _:
            return 1


def _key(update: Update) -> _Key:
    match update:
        case EndpointSet() | EndpointRemoved():
            return f"endpoint {update.id}", 0
        case HostEndpointSet() | HostEndpointRemoved():
            return f"host endpoint {update.id}", 0
        case BgpSet():
            return "bgp", 0
        case NeedSet() | NeedRemoved() | PolicySet():
            return object_of(update.scope), 0
        case _:
            return object_of(update.scope), update.bucket
