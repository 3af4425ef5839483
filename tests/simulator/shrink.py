"""A failing world made small: steps are left out as long as it still fails in the same way."""

from tests.simulator.run import Ending, Switch, end_of
from tests.simulator.world import N_STEPS


def shrink(ending: Ending, switch: Switch | None = None) -> tuple[tuple[int, ...], Ending]:
    """Return the steps that are needed, and how the world ends with them alone.

    Cost: a world for each step, once or twice.
    """
    steps = tuple(range(N_STEPS))
    smaller = True
    while smaller:
        smaller = False
        for step in reversed(steps):
            rest = tuple(one for one in steps if one != step)
            found = end_of(ending.number, rest, switch)
            if found.kinds & ending.kinds:
                steps, ending, smaller = rest, found, True
    return steps, ending
