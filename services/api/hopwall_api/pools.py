"""IP pools may not share addresses: which pool an address is of would be open.

Pure. Refuses a range that another pool has; what overlaps already stays, to be read, changed in all else and
removed. That racing writers do not store two such ranges rests on the condition that `guarded` puts on every write
of a pool: that no pool was written since.

Source: Calico, IPPool ("pools must not overlap").
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from hopwall_api import problems
from hopwall_api.intent import Condition, Plan
from hopwall_api.ipam.spans import Span, span_of
from hopwall_api.store import Held
from hopwall_model import topics
from hopwall_model.problems import Code
from hopwall_model.resources import IPPool, Key

POOL = IPPool.__name__
_ALL = topics.kind_subjects(POOL)
_MAX_ERRORS = 100


def guarded(plans: Sequence[Plan], last_pool: int) -> Sequence[Plan]:
    """Return the plans on the condition that `last_pool` is the last word on any pool, if they write one.

    Shape:  the first pool's plan bears it: within a batch the others come after it.
    """
    for index, plan in enumerate(plans):
        if plan.key.kind == POOL and plan.event is not None:
            return [
                *plans[:index],
                replace(plan, among=Condition(subjects=_ALL, last=last_pool)),
                *plans[index + 1 :],
            ]
    return plans


def check_apart(
    pools: Mapping[str, str], held: Mapping[Key, Held], plans: Sequence[Plan], place: str | None
) -> None:
    """Refuse plans that give a pool a range which shares addresses with another's.

    Shape:  pools: name → range, also of those that cannot be read;
            place: the pointer to the list that the items of a bulk stand in; None: there is no list.
    Errors: ApiProblem 422.
    """
    wanted = {
        plan.key.name: index for index, plan in enumerate(plans) if _moves(plan, held[plan.key])
    }
    if not wanted:
        return
    after = {name: span_of(cidr) for name, cidr in pools.items()}
    cidrs = dict(pools)
    for plan in plans:
        if isinstance(plan.resource, IPPool):
            after.pop(plan.key.name, None)
            if plan.word != "removed":
                after[plan.key.name] = span_of(plan.resource.spec.cidr)
                cidrs[plan.key.name] = plan.resource.spec.cidr
    faults = _faults(after, wanted)
    if not faults:
        return
    errors = [
        problems.FieldError(
            pointer="/spec/cidr" if place is None else f"{place}/{wanted[name]}/spec/cidr",
            reason=f"{cidrs[name]} of the IPPool {name} overlaps {cidrs[other]} of the IPPool {other};"
            " choose a range that no other pool has.",
            code=str(Code.CONFLICT),
        )
        for name, other in list(faults.items())[:_MAX_ERRORS]
    ]
    n = len(faults)
    detail = (
        f"spec.cidr {errors[0].reason}" if n == 1 else f"{n} IPPools overlap others; see errors."
    )
    raise problems.invalid(detail if place is None else f"Nothing was stored. {detail}", errors)


def _moves(plan: Plan, held: Held) -> bool:
    """Tell whether the plan gives a pool a range that it does not have."""
    if not isinstance(plan.resource, IPPool) or plan.word not in ("created", "configured"):
        return False
    before = held.stored.resource if held.stored is not None else None
    return not isinstance(before, IPPool) or before.spec.cidr != plan.resource.spec.cidr


def _faults(spans: Mapping[str, Span], wanted: Mapping[str, int]) -> dict[str, str]:
    """Return whom of those wanted another pool stands against, and which.

    Cost: O(n log n): by first address, each is held against the one before that reaches farthest.
    """
    faults: dict[str, str] = {}
    farthest: str | None = None
    farthest_wanted: str | None = None
    for name in sorted(spans, key=lambda one: (spans[one], one)):
        span = spans[name]
        if name in wanted:
            if farthest is not None and spans[farthest].overlaps(span):
                faults[name] = farthest
            farthest_wanted = _farther(spans, farthest_wanted, name)
        elif farthest_wanted is not None and spans[farthest_wanted].overlaps(span):
            faults.setdefault(farthest_wanted, name)
        farthest = _farther(spans, farthest, name)
    return faults


def _farther(spans: Mapping[str, Span], one: str | None, other: str) -> str:
    """Return which of the two reaches farther; families come one after the other."""
    if one is None or (spans[one].family, spans[one].last) < (
        spans[other].family,
        spans[other].last,
    ):
        return other
    return one
