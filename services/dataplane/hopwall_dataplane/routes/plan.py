"""Pending routes → the fewest kernel ops, and outcomes → what we now know.

Pure. It refuses to decide *whether* a route may stand (its chains first): the agent gates that.
"""

from collections.abc import Sequence

from hopwall_dataplane.delta import ABSENT, Delta
from hopwall_dataplane.outcome import Done, Outcome, Refused
from hopwall_dataplane.routes.route import DeleteRoute, ReplaceRoute, Route, RouteKey, RouteOp

#: A gateway must be reachable before the routes through it; 1000 is more than any prefix length.
_RANK = {"local": 0, "link": 1000, "via": 2000, "other": 3000}


def plan_additions(pending: Delta[RouteKey, Route]) -> list[ReplaceRoute]:
    """Turn pending routes into replacements.

    A changed next hop is one replace, never delete-then-add, so no packet sees a gap.

    Shape:  local, link, via; in each the shortest prefix first, then by key.
    Errors: never.
    Cost:   O(p log p) in pending routes; 0 when nothing is pending.
    Owner:  a place that shows no route of ours is only taken if it is empty (`ReplaceRoute.old`).
    """
    actual = pending.actual
    sets = pending.pending_sets()
    sets.sort(key=lambda item: _RANK[item[1].kind] + int(item[1].cidr.partition("/")[2]))
    return [ReplaceRoute(key, route, actual.get(key)) for key, route in sets]


def plan_removals(pending: Delta[RouteKey, Route]) -> list[DeleteRoute]:
    """Turn unwanted routes into deletions.

    Shape:  longest prefix first, then by key.
    Errors: never.
    Cost:   O(p log p) in pending removals; 0 when nothing is pending.
    Owner:  only routes that carry our protocol number can appear here.
    """
    keys = [key for key, _ in pending.pending_removals()]
    keys.sort(key=lambda key: -int(key.cidr.partition("/")[2]))
    return [DeleteRoute(key) for key in keys]


def record(
    pending: Delta[RouteKey, Route], ops: Sequence[RouteOp], outcomes: Sequence[Outcome]
) -> None:
    """Note in the delta what became of ops; a retry changes nothing and calls for a re-read."""
    for op, outcome in zip(ops, outcomes, strict=True):
        if isinstance(outcome, Done):
            pending.mark_actual(op.key, op.route if isinstance(op, ReplaceRoute) else ABSENT)
        elif isinstance(outcome, Refused):
            pending.park(op.key, outcome.reason)
