"""The route driver against a real kernel, in a namespace of its own."""

from collections.abc import Iterator

import pytest

from hopwall_dataplane.delta import Delta
from hopwall_dataplane.outcome import Done, Outcome, Refused, Retry
from hopwall_dataplane.routes.driver import RouteDriver
from hopwall_dataplane.routes.plan import plan_additions, plan_removals, record
from hopwall_dataplane.routes.route import DeleteRoute, ReplaceRoute, Route, RouteKey, RouteOp
from tests.support.netns import Netns

pytestmark = pytest.mark.kernel

EVERY_SHAPE = [
    Route("10.65.0.24/32", "link", interface="tap0"),
    Route("10.65.0.26/32", "link", interface="tap0", priority=512),
    Route("10.65.1.0/26", "via", gateway="172.31.0.9"),
    Route("10.65.0.21/32", "via", gateway="172.31.0.9", priority=32),
    Route("10.66.0.1/32", "local"),
    Route("fd65::24/128", "link", interface="tap0"),
    Route("fd65::26/128", "link", interface="tap0", priority=512),
    Route("fd65:1::/64", "via", gateway="fd31::9"),
    Route("fd66::1/128", "local"),
]


@pytest.fixture
def ns() -> Iterator[Netns]:
    """A host with an uplink `up0` and a workload interface `tap0`."""
    with Netns("routes") as made:
        for name in ("up0", "tap0"):
            made.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far"])
            made.run(["ip", "link", "set", f"{name}-far", "up"])
            made.run(["ip", "link", "set", name, "up"])
        made.run(["ip", "addr", "add", "172.31.0.1/24", "dev", "up0"])
        made.run(["ip", "addr", "add", "fd31::1/64", "dev", "up0", "nodad"])
        yield made


def apply(ops: list[RouteOp]) -> list[Outcome]:
    """Apply ops with a new driver."""
    driver = RouteDriver()
    outcomes = driver.apply(ops)
    driver.close()
    return outcomes


def read() -> dict[RouteKey, Route]:
    """Read with a new driver."""
    driver = RouteDriver()
    routes = driver.read()
    driver.close()
    return routes


def adds(*routes: Route) -> list[RouteOp]:
    """Return the ops that put routes into empty places."""
    return [ReplaceRoute(route.key, route) for route in routes]


def converge(wanted: list[Route]) -> tuple[int, list[Outcome]]:
    """Go from whatever is there to what is wanted; return the number of ops and their outcomes."""
    driver = RouteDriver()
    delta: Delta[RouteKey, Route] = Delta()
    delta.replace_actual(driver.read())
    for route in wanted:
        delta.set_desired(route.key, route)
    ops = plan_additions(delta) + plan_removals(delta)
    outcomes = driver.apply(ops)
    record(delta, ops, outcomes)
    assert delta.actual == driver.read()
    driver.close()
    return len(ops), outcomes


def test_every_shape_reads_back_as_it_was_written(ns: Netns) -> None:
    """What is applied is what is read, for both families, so nothing is done twice."""
    n_ops, outcomes = ns.python(converge, EVERY_SHAPE)
    assert outcomes == [Done()] * n_ops
    assert set(ns.python(read).values()) == set(EVERY_SHAPE)
    assert ns.python(converge, EVERY_SHAPE) == (0, [])


def test_iproute2_sees_the_routes_as_designed(ns: Netns) -> None:
    """A workload route is scope link with our protocol; a local one is in table local."""
    ns.python(apply, adds(*EVERY_SHAPE))
    main = ns.run(["ip", "route", "show", "proto", "80"]).splitlines()
    assert "10.65.0.24 dev tap0 scope link " in main
    assert "10.65.1.0/26 via 172.31.0.9 dev up0 " in main
    local = ns.run(["ip", "route", "show", "table", "local", "proto", "80"])
    assert local.split() == ["local", "10.66.0.1", "dev", "lo", "scope", "host"]
    assert "fd65::24 dev tap0" in ns.run(["ip", "-6", "route", "show", "proto", "80"])


def test_unwanted_routes_go_and_absent_ones_are_done(ns: Netns) -> None:
    """Removing works for every shape, and removing what is absent is success."""
    ns.python(apply, adds(*EVERY_SHAPE))
    n_ops, outcomes = ns.python(converge, [])
    assert n_ops == len(EVERY_SHAPE)
    assert outcomes == [Done()] * n_ops
    again: list[RouteOp] = [DeleteRoute(route.key) for route in EVERY_SHAPE]
    assert ns.python(apply, again) == [Done()] * n_ops


def test_next_hop_changes_by_one_replace(ns: Netns) -> None:
    """A workload that moves away costs one op, in both families."""
    before = [Route("10.65.0.24/32", "link", interface="tap0")]
    before.append(Route("fd65::24/128", "link", interface="tap0"))
    after = [Route("10.65.0.24/32", "via", gateway="172.31.0.7")]
    after.append(Route("fd65::24/128", "via", gateway="fd31::7"))
    ns.python(converge, before)
    assert ns.python(converge, after) == (2, [Done(), Done()])
    assert sorted(ns.python(read)) == sorted(route.key for route in after)


def test_priority_changes_by_a_new_route_and_then_a_removal(ns: Netns) -> None:
    """Two priorities stand side by side; the old one goes after the new one stands."""
    ns.python(converge, [Route("10.65.0.24/32", "link", interface="tap0")])
    raised = [Route("10.65.0.24/32", "link", interface="tap0", priority=512)]
    assert ns.python(converge, raised) == (2, [Done(), Done()])
    assert list(ns.python(read).values()) == raised


@pytest.mark.parametrize(
    ("flag", "foreign", "ours"),
    [
        ("-4", "10.65.0.24/32", Route("10.65.0.24/32", "link", interface="tap0")),
        ("-6", "fd65::24/128", Route("fd65::24/128", "link", interface="tap0")),
    ],
)
def test_foreign_route_is_never_touched(ns: Netns, flag: str, foreign: str, ours: Route) -> None:
    """A foreign route in the same place is refused by name, and neither replaced nor removed."""
    ns.run(["ip", flag, "route", "add", foreign, "dev", "up0", "proto", "static"])
    before = ns.run(["ip", flag, "route", "show", foreign])
    _, outcomes = ns.python(converge, [ours])
    assert isinstance(outcomes[0], Refused)
    assert "a foreign route to the same destination" in outcomes[0].reason
    assert ns.python(apply, [DeleteRoute(ours.key)]) == [Done()]
    assert ns.run(["ip", flag, "route", "show", foreign]) == before
    assert ns.python(read) == {}


def test_foreign_route_of_other_metric_stands_beside_ours(ns: Netns) -> None:
    """A route that BIRD learnt for the same destination is no obstacle, and stays."""
    ns.run(
        [
            "ip",
            "route",
            "add",
            "10.65.0.24/32",
            "via",
            "172.31.0.9",
            "proto",
            "bird",
            "metric",
            "32",
        ]
    )
    ours = Route("10.65.0.24/32", "link", interface="tap0")
    assert ns.python(converge, [ours]) == (1, [Done()])
    assert ns.python(converge, []) == (1, [Done()])
    assert "proto bird metric 32" in ns.run(["ip", "route", "show", "10.65.0.24"])


RETRIED = [
    (Route("10.65.0.24/32", "link", interface="gone0"), "waits for its interface gone0"),
    (Route("10.65.0.24/32", "link", interface="down0"), "down"),
    (Route("fd65::24/128", "link", interface="down0"), "down"),
]


@pytest.mark.parametrize(("route", "reason"), RETRIED)
def test_what_may_work_later_is_retried(ns: Netns, route: Route, reason: str) -> None:
    """A missing or downed interface may come to be: it is retried."""
    ns.run(["ip", "link", "add", "down0", "type", "veth", "peer", "name", "down0-far"])
    (outcome,) = ns.python(apply, adds(route))
    assert isinstance(outcome, Retry), outcome
    assert _matches(reason, outcome.reason)


def test_replacing_a_route_that_vanished_is_retried(ns: Netns) -> None:
    """A place that is not as we believed is re-read, never overwritten blindly."""
    old = Route("10.65.0.24/32", "link", interface="tap0")
    new = Route("10.65.0.24/32", "via", gateway="172.31.0.9")
    (outcome,) = ns.python(apply, [ReplaceRoute(new.key, new, old)])
    assert isinstance(outcome, Retry)


REFUSED = [
    (Route("10.65.0.24/32", "via", gateway="192.168.77.1"), "no way to the gateway"),
    (Route("fd65::24/128", "via", gateway="fd77::1"), "no way to the gateway"),
    (Route("10.65.0.24/24", "link", interface="tap0"), "refused by the kernel"),
    (Route("nonsense/32", "link", interface="tap0"), "cannot be written"),
    (Route("10.65.0.24/32", "other"), "only read, never written"),
]


@pytest.mark.parametrize(("route", "reason"), REFUSED)
def test_what_can_never_work_is_refused_alone(ns: Netns, route: Route, reason: str) -> None:
    """A bad route is refused with a reason, and its neighbours in the batch are applied."""
    good = [Route("10.65.0.1/32", "link", interface="tap0")]
    good.append(Route("10.65.0.2/32", "link", interface="tap0"))
    outcomes = ns.python(apply, adds(good[0], route, good[1]))
    assert [type(outcome) for outcome in outcomes] == [Done, Refused, Done]
    assert isinstance(outcomes[1], Refused)
    assert reason in outcomes[1].reason
    assert set(ns.python(read).values()) == set(good)


@pytest.mark.parametrize(
    "change",
    [
        "ip route replace 10.65.0.24/32 dev tap0 scope link proto 80 mtu 1300",
        "ip route replace blackhole 10.65.0.24/32 proto 80",
        "ip route replace 10.65.0.24/32 proto 80 nexthop via 172.31.0.8 nexthop via 172.31.0.9",
    ],
)
def test_route_of_ours_that_others_changed_is_repaired(ns: Netns, change: str) -> None:
    """Drift inside a route that still bears our mark is seen and mended by one op."""
    wanted = [Route("10.65.0.24/32", "link", interface="tap0")]
    ns.python(converge, wanted)
    ns.run(change.split())
    assert ns.python(converge, wanted) == (1, [Done()])
    assert ns.python(converge, wanted) == (0, [])


def many(n_routes: int) -> tuple[int, int, int]:
    """Add, read and remove many routes; return how many were done, seen and left."""
    routes = [
        Route(f"10.{70 + i // 65536}.{i // 256 % 256}.{i % 256}/32", "link", interface="tap0")
        for i in range(n_routes)
    ]
    driver = RouteDriver()
    done = sum(outcome == Done() for outcome in driver.apply(adds(*routes)))
    seen = len(driver.read())
    driver.apply([DeleteRoute(route.key) for route in routes])
    left = len(driver.read())
    driver.close()
    return done, seen, left


def test_more_routes_than_one_datagram_holds(ns: Netns) -> None:
    """A batch is cut into datagrams and a dump joined from them, with nothing lost."""
    assert ns.python(many, 3500) == (3500, 3500, 0)


def every_other_is_there(n_routes: int) -> list[int]:
    """Occupy every other place, then add all; return the indices that were refused."""
    routes = [
        Route(f"10.70.{i // 256}.{i % 256}/32", "link", interface="tap0") for i in range(n_routes)
    ]
    driver = RouteDriver()
    driver.apply(adds(*routes[::2]))
    outcomes = driver.apply(adds(*routes))
    driver.close()
    return [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Refused)]


def test_each_failure_in_a_large_batch_meets_its_own_op(ns: Netns) -> None:
    """Thousands of errors in one batch are neither lost nor given to a neighbour."""
    assert ns.python(every_other_is_there, 4000) == list(range(0, 4000, 2))


def _matches(pattern: str, text: str) -> bool:
    """Say whether one of the alternatives is in the text."""
    return any(part in text for part in pattern.split("|"))
