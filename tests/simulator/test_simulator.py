"""Worlds by number: whatever befalls them, no packet fares as no state explains; and known-bad ways are seen."""

from collections.abc import Callable

import pytest

from tests.simulator.bad import SWITCHES
from tests.simulator.world import World, live

N_WORLDS = 12
#: Within so many worlds a known-bad way must show.
N_BAD_WORLDS = 25


@pytest.mark.parametrize("number", range(N_WORLDS))
def test_no_verdict_is_without_a_reason_and_all_ends_well(number: int) -> None:
    """Crashes at any write, lost messages, cuts, restarts and wrong servers open and close nothing."""
    world = live(World(number))

    assert [(f.kind, f.probe, f.floor, f.newest) for f in world.faults] == []
    assert (world.broken, world.behind()) == ([], [])
    assert world.n_asked > 20


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.__name__)
def test_a_known_bad_way_is_seen(switch: Callable[[World], None]) -> None:
    """The simulator sees what it is for: else its silence would mean nothing."""
    for number in range(N_BAD_WORLDS):
        world = World(number)
        switch(world)
        if live(world).faults or world.behind():
            return
    pytest.fail(f"{N_BAD_WORLDS} worlds did not show it")
