"""Which routes stand on the hosts of a live migration, at each of its steps, and in which order they change."""

import pytest
from msgspec.structs import replace

from hopwall_dataplane.desired import Desired
from hopwall_dataplane.moves.phases import ELEVATED, YIELDING
from hopwall_dataplane.routes.plan import plan_additions, plan_removals
from hopwall_dataplane.routes.route import Route
from hopwall_model.updates import EndpointId, EndpointRemoved, EndpointSet, Move, Nat, RoutesBucket
from tests.dataplane.test_desired import endpoint, fresh, step

SHARED, OWN, FLOAT = "10.65.0.5/32", "10.65.0.6/32", "192.0.2.5/32"
VM = EndpointId("d/e1")
THERE = RoutesBucket(host="h9", version=1, gateway_v4="172.18.203.9", cidrs=(SHARED, FLOAT))
LINK = [Route(cidr, "link", interface="tap1") for cidr in (SHARED, FLOAT)]
VIA = [Route(cidr, "via", gateway="172.18.203.9") for cidr in (SHARED, FLOAT)]


def moving(role: str = "", *, switched: bool = False) -> EndpointSet:
    """Return the endpoint, with a part in a migration."""
    made = replace(
        endpoint(1),
        interface="tap1",
        addresses=(SHARED, OWN),
        nats=(Nat(FLOAT, SHARED),),
    )
    if not role:
        return made
    move = Move(
        role="source" if role == "source" else "target",
        migration="d/m/1",
        peer=EndpointId("d/e9"),
        host="h9",
        addresses=(SHARED, FLOAT),
        switched=switched,
    )
    return replace(made, move=move)


def wanted(desired: Desired) -> list[Route]:
    """Return the wanted routes to what is shared."""
    found = desired.routes.desired.values()
    return sorted((r for r in found if r.cidr in (SHARED, FLOAT)), key=lambda r: r.cidr)


def at(priority: int) -> list[Route]:
    """Return the routes to the workload here, with a priority."""
    return [replace(route, priority=priority) for route in LINK]


def test_a_target_is_whole_but_for_its_routes() -> None:
    """Identity and class stand, its other address has a route, what is shared is reached where it is now."""
    desired = fresh()
    desired.apply(step(THERE, moving("target")))
    assert wanted(desired) == VIA
    assert Route(OWN, "link", interface="tap1").key in desired.routes.desired
    plain = fresh()
    plain.apply(step(moving()))
    for name in plain.identity.specs.desired:
        assert desired.identity.content(name).desired == plain.identity.content(name).desired
    assert desired.waiting() == ()
    assert set(desired.expected()) == {VM}


def test_who_arrives_has_an_elevated_route_before_the_old_one_goes() -> None:
    """The change is new routes, then removals: at no moment there is none."""
    desired = fresh()
    desired.apply(step(THERE, moving("target")))
    desired.routes.replace_actual(dict(desired.routes.desired))
    assert desired.arrive(VM)
    assert wanted(desired) == at(ELEVATED)
    assert [op.route for op in plan_additions(desired.routes)] == at(ELEVATED)
    assert [op.key for op in plan_removals(desired.routes)] == [route.key for route in VIA]
    assert not desired.arrive(VM)
    assert desired.expected() == {}


def test_what_has_converged_is_ordinary() -> None:
    """After the migration and its time, the route is one like any other's."""
    desired = fresh()
    desired.apply(step(moving("target")))
    desired.arrive(VM)
    desired.apply(step(moving()))
    desired.tick(0.0)
    assert wanted(desired) == at(ELEVATED)
    desired.tick(desired.moves.convergence_s)
    assert wanted(desired) == LINK
    assert desired.moves.due_at is None


def test_a_source_yields_and_then_sends_on() -> None:
    """Its route is below all others; when it is said that the workload has gone, it is reached elsewhere."""
    desired = fresh()
    desired.apply(step(moving()))
    desired.routes.replace_actual(dict(desired.routes.desired))
    desired.apply(step(moving("source")))
    assert wanted(desired) == at(YIELDING)
    assert [op.route for op in plan_additions(desired.routes)] == at(YIELDING)
    desired.apply(step(THERE, moving("source", switched=True)))
    assert wanted(desired) == VIA
    desired.apply(step(moving()))
    assert wanted(desired) == LINK


@pytest.mark.parametrize("role", ["target", ""])
def test_an_agent_without_memory_finds_who_had_arrived(role: str) -> None:
    """An elevated route that it reads is one that it wants, so nothing is written."""
    before = fresh()
    before.apply(step(moving("target", switched=True)))
    desired = fresh()
    desired.routes.replace_actual(dict(before.routes.desired))
    desired.apply(step(moving(role), full=True))
    assert wanted(desired) == at(ELEVATED)
    assert not desired.routes


def test_an_elevated_route_by_another_interface_says_nothing() -> None:
    """What leads elsewhere is no arrival of this endpoint."""
    desired = fresh()
    strange = replace(at(ELEVATED)[0], interface="tap2")
    desired.routes.replace_actual({strange.key: strange})
    desired.apply(step(moving("target")))
    assert wanted(desired) == []
    assert set(desired.expected()) == {VM}


def test_nothing_is_left_of_who_is_gone() -> None:
    """A removed endpoint has neither route nor phase, at whichever step."""
    for role, switched in (("target", False), ("target", True), ("source", False)):
        desired = fresh()
        desired.apply(step(moving(role, switched=switched)))
        desired.apply(step(EndpointRemoved(id=VM)))
        assert wanted(desired) == []
        assert desired.moves.phase(VM) is None
