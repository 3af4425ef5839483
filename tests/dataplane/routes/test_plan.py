import errno

import pytest

from hopwall_dataplane.delta import Delta
from hopwall_dataplane.netlink.codec import Failure
from hopwall_dataplane.outcome import Done, Outcome, Refused, Retry
from hopwall_dataplane.routes.codec import outcome_of
from hopwall_dataplane.routes.plan import plan_additions, plan_removals, record
from hopwall_dataplane.routes.route import DeleteRoute, ReplaceRoute, Route, RouteKey, RouteOp

NARROW = Route("10.65.0.24/32", "link", interface="tap0")
WIDE = Route("10.65.0.0/26", "link", interface="tap0")
BEHIND = Route("10.66.0.0/16", "via", gateway="10.65.0.24")
SELF = Route("10.67.0.1/32", "local")


def delta_of(*routes: Route) -> Delta[RouteKey, Route]:
    """Return a delta in which all routes are wanted and none is there."""
    delta: Delta[RouteKey, Route] = Delta()
    for route in routes:
        delta.set_desired(route.key, route)
    return delta


@pytest.mark.parametrize("order", [1, -1])
def test_gateways_come_before_what_is_behind_them(order: int) -> None:
    """What needs no gateway first, whatever the order of arrival."""
    delta = delta_of(*[BEHIND, NARROW, SELF, WIDE][::order])
    assert [op.route for op in plan_additions(delta)] == [WIDE, NARROW, SELF, BEHIND]


def test_removals_come_in_the_order_of_their_keys() -> None:
    """The order is the same in every process."""
    delta: Delta[RouteKey, Route] = Delta()
    delta.replace_actual({route.key: route for route in (BEHIND, NARROW, WIDE)})
    keys = [WIDE.key, NARROW.key, BEHIND.key]
    assert plan_removals(delta) == [DeleteRoute(key) for key in keys]


def test_changed_route_names_the_one_of_ours_it_replaces() -> None:
    """Only a place that shows our route may be replaced."""
    delta = delta_of(NARROW)
    moved = Route(NARROW.cidr, "via", gateway="172.31.0.9")
    delta.replace_actual({NARROW.key: moved})
    assert plan_additions(delta) == [ReplaceRoute(NARROW.key, NARROW, moved)]


def test_outcomes_settle_park_or_leave_pending() -> None:
    """Done is settled, refused is parked, retry stays pending."""
    delta = delta_of(NARROW, WIDE, BEHIND)
    outcomes: list[Outcome] = [Done(), Refused("no"), Retry("later")]
    record(delta, plan_additions(delta), outcomes)
    assert [route for _, route in delta.pending_sets()] == [BEHIND]
    assert delta.parked == {NARROW.key: "no"}
    assert plan_removals(delta) == []


ADD = ReplaceRoute(NARROW.key, NARROW)
DELETE = DeleteRoute(NARROW.key)


@pytest.mark.parametrize(
    ("op", "code", "kind"),
    [
        (ADD, errno.ENETUNREACH, Refused),
        (ADD, errno.EHOSTUNREACH, Refused),
        (ADD, errno.ENODEV, Retry),
        (ADD, errno.ENETDOWN, Retry),
        (ADD, errno.ENOENT, Retry),
        (ADD, errno.ENOBUFS, Retry),
        (ADD, errno.EEXIST, Refused),
        (ADD, errno.EINVAL, Refused),
        (ADD, errno.ENOTSUP, Refused),
        (DELETE, errno.ESRCH, Done),
        (DELETE, errno.EBUSY, Retry),
        (DELETE, errno.EINVAL, Refused),
    ],
)
def test_every_errno_has_one_meaning(op: RouteOp, code: int, kind: type[Outcome]) -> None:
    """The table: what may work later, what never will, and what is done already."""
    assert isinstance(outcome_of(op, Failure(code)), kind)
