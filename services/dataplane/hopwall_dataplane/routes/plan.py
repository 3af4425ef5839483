"""Pending routes → the fewest kernel ops, and outcomes → what we now know.

Pure. It refuses to decide *whether* a route may stand (its chains first): the agent gates that.
"""

from collections.abc import Sequence

from hopwall_dataplane.delta import ABSENT, Delta
from hopwall_dataplane.outcome import Done, Outcome, Refused
from hopwall_dataplane.routes.route import DeleteRoute, ReplaceRoute, Route, RouteKey, RouteOp


def plan_additions(pending: Delta[RouteKey, Route]) -> list[ReplaceRoute]:
    """Turn pending routes into replacements.

    A changed next hop is one replace, never delete-then-add, so no packet sees a gap. A gateway must be
    reachable before the routes through it.

    Shape:  what needs no gateway, then what is behind one; each by key.
    Errors: never.
    Cost:   O(p log p) in pending routes; 0 when nothing is pending.
    Owner:  a place that shows no route of ours is only taken if it is empty (`ReplaceRoute.old`).
    """
    actual = pending.actual
    sets = pending.pending_sets()
    ops = [ReplaceRoute(key, route, actual.get(key)) for key, route in sets if not route.gateway]
    if len(ops) < len(sets):
        ops += [ReplaceRoute(key, route, actual.get(key)) for key, route in sets if route.gateway]
    return ops


def plan_removals(pending: Delta[RouteKey, Route]) -> list[DeleteRoute]:
    """Turn unwanted routes into deletions.

    Shape:  by key.
    Errors: never.
    Cost:   O(p log p) in pending removals; 0 when nothing is pending.
    Owner:  only routes that carry our protocol number can appear here.
    """
    return [DeleteRoute(key) for key, _ in pending.pending_removals()]


def record(
    pending: Delta[RouteKey, Route], ops: Sequence[RouteOp], outcomes: Sequence[Outcome]
) -> None:
    """Note in the delta what became of ops; a retry changes nothing and calls for a re-read."""
    for op, outcome in zip(ops, outcomes, strict=True):
        if isinstance(outcome, Done):
            pending.mark_actual(op.key, op.route if isinstance(op, ReplaceRoute) else ABSENT)
        elif isinstance(outcome, Refused):
            pending.park(op.key, outcome.reason)
