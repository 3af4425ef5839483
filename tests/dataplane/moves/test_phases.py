"""The phases of a live migration on one host: what each word does in each of them."""

import pytest

from hopwall_dataplane.moves.phases import (
    ELEVATED,
    NORMAL,
    PATIENCE_S,
    SETTLED,
    YIELDING,
    Moves,
    Phase,
)
from hopwall_model.status import MovedHere
from hopwall_model.updates import EndpointId, EndpointSet, Move

VM = EndpointId("default/vm")
SHARED, OWN = "10.65.0.5/32", "10.65.0.6/32"


def move(role: str, migration: str = "default/m/1", *, switched: bool = False) -> Move:
    """Return a part in a migration with h9."""
    return Move(
        role="source" if role == "source" else "target",
        migration=migration,
        peer=EndpointId("default/other"),
        host="h9",
        addresses=(SHARED,),
        switched=switched,
    )


def endpoint(part: Move | None) -> EndpointSet:
    """Return the endpoint with a part."""
    return EndpointSet(id=VM, interface="tap1", addresses=(SHARED, OWN), move=part)


def moved(*parts: Move | None) -> Moves:
    """Return what these statements of calc make of one endpoint."""
    moves = Moves(30.0)
    for part in parts:
        moves.put(endpoint(part))
    return moves


TARGET, SOURCE, SWITCHED = move("target"), move("source"), move("target", switched=True)


def test_a_target_has_no_route_before_its_workload_arrives() -> None:
    """The shared address has none, its other address has one, and calc is told nothing."""
    moves = moved(TARGET)
    assert moves.priority(VM, SHARED) is None
    assert moves.priority(VM, OWN) == NORMAL
    assert moves.arrived() == ()
    assert moves.expected() == {VM: frozenset({SHARED})}


@pytest.mark.parametrize("how", ["a sign", "a call"])
def test_who_has_arrived_is_preferred(how: str) -> None:
    """A sign of the workload, or somebody's word, makes the route stand, elevated; calc is told."""
    moves = moved(TARGET) if how == "a sign" else moved(TARGET, SWITCHED)
    if how == "a sign":
        assert moves.announce(VM)
    assert moves.phase(VM) is Phase.LIVE
    assert moves.priority(VM, SHARED) == ELEVATED
    assert moves.priority(VM, OWN) == NORMAL
    assert moves.arrived() == (MovedHere(VM, "default/m/1"),)
    assert moves.expected() == {}


def test_calc_says_back_what_it_was_told() -> None:
    """That calc knows of the arrival, or does not know yet, changes nothing."""
    moves = moved(TARGET)
    moves.announce(VM)
    for part in (TARGET, SWITCHED, TARGET):
        moves.put(endpoint(part))
        assert moves.phase(VM) is Phase.LIVE


@pytest.mark.parametrize("heard", [True, False])
def test_the_end_of_a_migration_leaves_the_target_preferred_for_a_while(heard: bool) -> None:
    """Whether its sign was heard or missed, the target has it, elevated for the time of convergence."""
    moves = moved(TARGET)
    if heard:
        moves.announce(VM)
    moves.put(endpoint(None))
    assert moves.priority(VM, SHARED) == ELEVATED
    assert moves.arrived() == ()
    assert set(moves.take_fresh()) == {VM}
    assert moves.take_fresh() == {}
    assert moves.tick(100.0) == []
    assert moves.due_at == 130.0
    moves.put(endpoint(None))  # another word about it does not begin the time anew
    assert moves.tick(129.9) == []
    assert moves.tick(130.0) == [VM]
    assert moves.priority(VM, SHARED) == NORMAL
    assert moves.due_at is None


def test_a_source_yields_until_it_is_said_that_the_workload_has_gone() -> None:
    """Its route stands below all others, and goes when the switch is known; cancelled, it is normal again."""
    moves = moved(SOURCE)
    assert moves.priority(VM, SHARED) == YIELDING
    assert moves.priority(VM, OWN) == NORMAL
    moves.put(endpoint(None))
    assert moves.priority(VM, SHARED) == NORMAL
    moves.put(endpoint(move("source", switched=True)))
    assert moves.priority(VM, SHARED) is None


@pytest.mark.parametrize("before", [(TARGET,), (TARGET, SWITCHED), (SWITCHED, None)])
def test_who_is_moved_on_yields_at_once(before: tuple[Move | None, ...]) -> None:
    """From any phase an endpoint that becomes a source is one, and no time goes on running."""
    moves = moved(*before, move("source", "default/back/2"))
    assert moves.priority(VM, SHARED) == YIELDING
    assert moves.tick(1e9) == []
    assert moves.arrived() == ()


def test_who_is_moved_on_had_arrived() -> None:
    """A target that nobody heard of is where the workload is if it is the source of the next migration."""
    moves = moved(TARGET, move("source", "default/on/2"))
    assert {one.move for one in moves.take_fresh().values()} == {TARGET}


BACK = move("source", "default/back/2")


@pytest.mark.parametrize(
    ("before", "stands"),
    [((), NORMAL), ((TARGET, SWITCHED), ELEVATED), ((SWITCHED, None), ELEVATED)],
)
def test_with_bgp_a_source_yields_once_older_news_are_over(
    before: tuple[Move | None, ...], stands: int
) -> None:
    """Its route stands where it stood until nobody else is known to have the address, or time is up."""
    for ends in ("nobody", "time"):
        moves = Moves(30.0, with_bgp=True)
        for part in (*before, BACK, BACK):
            moves.put(endpoint(part))
            moves.tick(100.0)
        assert moves.priority(VM, SHARED) == stands
        assert moves.waiting() == {VM: frozenset({SHARED})}
        assert moves.due_at == 100.0 + PATIENCE_S
        if ends == "nobody":
            assert moves.rivals_gone(VM)
        else:
            assert moves.tick(100.0 + PATIENCE_S) == [VM]
        moves.put(endpoint(BACK))  # another word about it does not begin the wait anew
        assert moves.priority(VM, SHARED) == YIELDING
        assert moves.waiting() == {}
        assert moves.due_at is None
        assert not moves.rivals_gone(VM)


def test_a_source_that_waits_has_no_route_once_it_is_said_that_the_workload_has_gone() -> None:
    """calc's word does not wait for older news, and nobody is asked for them any more."""
    moves = Moves(30.0, with_bgp=True)
    moves.put(endpoint(BACK))
    moves.put(endpoint(move("source", "default/back/2", switched=True)))
    assert moves.priority(VM, SHARED) is None
    assert moves.waiting() == {}


def test_without_memory_who_yielded_goes_on_yielding() -> None:
    """News that came after the last agent let it yield are not older ones; before, it stands where it stood."""
    for stood, stands in (
        (YIELDING, YIELDING),
        (ELEVATED, ELEVATED),
        (SETTLED, SETTLED),
        (None, NORMAL),
    ):
        moves = Moves(30.0, with_bgp=True)
        moves.put(endpoint(BACK), {} if stood is None else {SHARED: stood})
        assert moves.priority(VM, SHARED) == stands


def test_with_bgp_who_has_arrived_settles() -> None:
    """After convergence its route stands where it is announced from any block, also for an agent without memory."""
    moves = Moves(30.0, with_bgp=True)
    for part in (TARGET, SWITCHED, None):
        moves.put(endpoint(part))
    moves.tick(0.0)
    assert moves.tick(30.0) == [VM]
    other = Moves(30.0, with_bgp=True)
    other.put(endpoint(None), {SHARED: SETTLED})
    for one in (moves, other):
        one.put(endpoint(None))
        assert (one.tick(1e9), one.due_at) == ([], None)
        assert (one.priority(VM, SHARED), one.priority(VM, OWN)) == (SETTLED, NORMAL)
        one.put(endpoint(BACK))
        assert one.priority(VM, SHARED) == SETTLED
        one.rivals_gone(VM)
        assert one.priority(VM, SHARED) == YIELDING


@pytest.mark.parametrize("before", [SWITCHED, SOURCE, None])
def test_another_migration_begins_at_the_beginning(before: Move | None) -> None:
    """A target of a migration declared anew waits for its workload, whatever it was."""
    moves = moved(TARGET, before, move("target", "default/back/2"))
    assert moves.phase(VM) is Phase.TARGET


def test_a_sign_counts_only_for_who_is_expected() -> None:
    """Signs of those who stay, have arrived, or leave change nothing."""
    for parts in ((None,), (SWITCHED,), (SWITCHED, None), (SOURCE,)):
        moves = moved(*parts)
        before = moves.phase(VM)
        assert not moves.announce(VM)
        assert moves.phase(VM) is before
    assert not Moves().announce(VM)


def test_an_agent_without_memory_goes_on_where_the_last_one_was() -> None:
    """An elevated route in the kernel says that the workload had arrived, while the migration lasts and after."""
    moves = Moves(30.0)
    moves.put(endpoint(TARGET), {SHARED: ELEVATED})
    assert moves.phase(VM) is Phase.LIVE
    moves = Moves(30.0)
    moves.put(endpoint(None), {SHARED: ELEVATED})
    assert moves.phase(VM) is Phase.CONVERGE
    assert moves.tick(0.0) == []
    assert moves.tick(30.0) == [VM]
    moves = Moves(30.0)
    moves.put(endpoint(SOURCE), {SHARED: ELEVATED})
    assert moves.phase(VM) is Phase.SOURCE


def test_who_is_gone_is_forgotten() -> None:
    """A removed endpoint leaves nothing, and comes back as one that stays."""
    moves = moved(SWITCHED)
    moves.drop(VM)
    assert moves.phase(VM) is None
    moves.put(endpoint(None))
    assert moves.priority(VM, SHARED) == NORMAL
