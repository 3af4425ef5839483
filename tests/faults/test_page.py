"""The page: every failure mode has a line, a failed row is said to have failed, and no row forgets its packets."""

from pathlib import Path

import pytest

from tests.faults import (
    modes_agents,
    modes_broker,
    modes_store,
    modes_tests,
    test_cluster,
    test_other_modes,
    test_packets,
)
from tests.faults.__main__ import modes
from tests.faults.catalogue import FAILURES
from tests.faults.page import Row, page, row_of
from tests.faults.table import BROKER_ALONE, Mode, Result, Trial

RIGHT = Result(tries=3, probes=900, recovery=[0.5, 1.5], acked=10)


async def _nothing(_: Trial) -> Result:
    return Result()


def _row(result: Result, *, packets: str = "", bad: bool = False) -> Row:
    mode = Mode("m", "what", _nothing, ("P1",), packets, bad=bad, where="tests/faults/modes_x.py")
    return row_of(mode, result, took_s=1.0, commit="c", day="2026-11-27")


def test_every_mode_covers_what_is_known_and_says_where_it_is() -> None:
    """A known-bad way covers nothing; any other names its failure modes and its file."""
    for mode in modes():
        assert mode.covers or mode.bad, mode.name
        assert set(mode.covers) <= FAILURES.keys()
        assert (Path(__file__).parents[2] / mode.where).exists(), mode.name
    assert len({mode.name for mode in modes()}) == len(modes())


def test_every_failure_mode_has_a_short_form_in_make_test() -> None:
    """By a mode that is tried in short, or by tests that are run there anyway."""
    short = (
        *(modes_agents.RECONNECT_FEW, modes_agents.SLOW),
        *(*modes_broker.MODES, *test_cluster.QUICK, *modes_store.MODES),
        *(*test_packets.QUICK, *test_other_modes.QUICK, *modes_tests.MODES),
    )
    held = {name for mode in short for name in mode.covers}
    # The lock of xtables: tests/dataplane/test_agent_held_up.py and iptables/test_driver.py.
    assert held | {"K5"} == FAILURES.keys()


def test_a_row_that_judges_no_packets_fails_unless_it_says_why() -> None:
    """Where there is a data path the prober cannot be forgotten."""
    assert _row(RIGHT).passed
    assert not _row(Result(tries=3)).passed
    assert _row(Result(tries=3), packets=BROKER_ALONE).passed


@pytest.mark.parametrize("wrong", ["lost", "opened", "closed"])
def test_what_is_lost_open_or_closed_fails_the_row_and_catches_the_known_bad(wrong: str) -> None:
    """The same figure fails a row and is what a known-bad one must have."""
    result = Result(tries=1, probes=5, acked=7)
    setattr(result, wrong, 2)
    assert not _row(result).passed
    assert _row(result, bad=True).passed
    assert not _row(RIGHT, bad=True).passed
    assert "**FAILED**" in page([_row(result)], [])
    assert "NOT caught" in page([_row(RIGHT, bad=True)], [])


def test_the_page_has_a_line_for_each_failure_mode_and_adds_its_rows_up() -> None:
    """What nobody tried is said to be so."""
    text = page([_row(RIGHT), _row(RIGHT)], ["a fact"])
    for name, what in FAILURES.items():
        assert f"| {name}: {what} |" in text
    assert f"| P1: {FAILURES['P1']} | 6 | 0 | 1,800 | 0 | 0 | 1.00 / 1.50 s | m; m |" in text
    assert "not tried" in text
