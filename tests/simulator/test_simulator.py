"""Worlds by number: whatever befalls them, no packet fares as no state explains; and known-bad ways are seen."""

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest

from hopwall_model.resources import key_of
from tests.simulator.bad import SWITCHES, flush_then_restore
from tests.simulator.run import Tally, end_of, run
from tests.simulator.shrink import shrink
from tests.simulator.virtual import VirtualLoop
from tests.simulator.world import N_STEPS, World
from tests.support import states

N_WORLDS = 40
#: Within so many worlds a known-bad way must show.
N_BAD_WORLDS = 25
#: Worlds that failed once, and why.
FAILED_ONCE = {
    101121: "a set that waited to be swept was wanted again: who was judged by its policy was closed meanwhile",
    200069: "an api that did not know whom a write concerns took a host that refused it for all that there are",
    300188: "an address went from an allowed set to one that passes before it: it was in neither for a moment",
    303135: "an address left its endpoint for one that is judged alike: the loser got a packet by a policy since rewritten",
    301051: "a rule that meets nobody kept others from the order in which nobody is closed",
    303348: "a calc that came back began an epoch with one event less than another's, and hosts went back to it",
    100054: "a calc that stood by and heard nothing took over, and took hosts back to what it knew",
}


def test_no_verdict_is_without_a_reason_and_all_ends_well() -> None:
    """Crashes at any write, lost messages, cuts, restarts and wrong servers open, close and lose nothing."""
    endings = list(run(0, N_WORLDS))

    assert [(e.number, e.kinds, e.lost, e.told[-8:]) for e in endings if e.kinds] == []
    assert all(ending.n_asked > 20 for ending in endings)


@pytest.mark.parametrize("number", FAILED_ONCE)
def test_what_failed_once_fails_no_more(number: int) -> None:
    """A world that showed a fault of the product is lived for ever."""
    assert not end_of(number).kinds, FAILED_ONCE[number]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.__name__)
def test_a_known_bad_way_is_seen(switch: Callable[[World], None]) -> None:
    """The simulator sees what it is for: else its silence would mean nothing."""
    assert any(end_of(number, switch=switch).kinds for number in range(N_BAD_WORLDS))


def test_a_world_follows_from_its_number() -> None:
    """Who is told a failing number sees what failed."""
    assert end_of(3) == end_of(3)


def test_a_failing_world_is_made_small() -> None:
    """A person is shown the steps that are needed, and no others."""
    ending = next(
        e for n in range(N_BAD_WORLDS) if (e := end_of(n, switch=flush_then_restore)).kinds
    )

    steps, small = shrink(ending, flush_then_restore)

    assert len(steps) < N_STEPS
    assert small.kinds & ending.kinds
    assert any("FAULT" in line for line in small.told)


@pytest.mark.parametrize("declared", [True, False])
def test_what_was_removed_while_calc_was_away_does_not_stand_for_ever(declared: bool) -> None:
    """A calc that begins anew does not know a host that nobody declares and that has nothing any more: the host asks."""
    world = World(1)
    host, mine = world.hosts["h1"], states.endpoint("e1", "h1", "10.65.0.7/32")

    def routed() -> bool:
        return any(route.cidr == "10.65.0.7/32" for route in host.kernel.routes.held.values())

    async def whole() -> list[bool]:
        for resource in (states.host("h1"), mine) if declared else (mine,):
            world.put(resource)
        world.start_calc()
        world.start_agent(host)
        await asyncio.sleep(20.0)
        seen = [routed()]
        world.kill_calc()
        world.remove(key_of(mine))
        await asyncio.sleep(1.0)
        world.start_calc()
        await asyncio.sleep(40.0)
        seen.append(routed())
        await world.end()
        return seen

    with VirtualLoop() as loop:
        assert loop.run_until_complete(whole()) == [True, False]


def test_the_line_and_the_row_count_what_failed() -> None:
    """A failing seed is in the line, and what it did in the row."""
    bad = [end_of(number, switch=flush_then_restore) for number in range(3)]
    tally = Tally()
    for ending in bad:
        tally = tally.plus(ending)

    assert tally.row.seeds == len(bad)
    assert (tally.row.open, tally.row.closed_when_open) == (
        sum(ending.n_open for ending in bad),
        sum(ending.n_closed for ending in bad),
    )
    assert f"first failing seed {next(e.number for e in bad if e.kinds)}" in tally.line


def test_the_command_says_it_in_a_line() -> None:
    """What a person runs ends with one line, and with 0 where nothing failed."""
    command = [sys.executable, "-m", "tests.simulator", "--seeds", "2", "--from", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stdout + done.stderr
    assert done.stdout.startswith("2 worlds, ")


def test_who_looks_whether_its_time_has_come_sees_it_come() -> None:
    """A loop runs timers a nanosecond early: time passes all the same, or a world never ends."""

    async def look(due_at: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < due_at:
            woken = asyncio.Event()
            loop.call_at(due_at, woken.set)
            await woken.wait()

    with VirtualLoop() as loop:
        loop.run_until_complete(asyncio.sleep(24.0))
        due_at = loop.time() + 4e-15
        assert due_at > loop.time()
        loop.run_until_complete(asyncio.wait_for(look(due_at), 1.0))
