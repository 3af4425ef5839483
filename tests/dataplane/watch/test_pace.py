"""When what is in doubt is read again, and so when it is put right."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.watch.audit import Digests, pause_s
from hopwall_dataplane.watch.pace import FREE_REPAIRS, SETTLE_S, Pace


def drive(pace: Pace, seconds: float, cost_s: float, repaired: tuple[str, ...]) -> list[float]:
    """Ask at every moment, read whenever it is due; return when it was read."""
    now, read = 100.0, []
    while now < 100.0 + seconds:
        pace.ask(now)
        if pace.due_in_s(now) == 0.0:
            pace.took()
            read.append(now)
            pace.read(now, cost_s, repaired)
        now += 0.005
    return read


def test_what_nobody_doubts_is_not_due() -> None:
    """No event, no reading; one event is one reading, a moment later."""
    pace = Pace()
    assert pace.due_in_s(1.0) is None
    pace.ask(1.0)
    pace.ask(1.005)
    assert pace.due_in_s(1.0) == pytest.approx(SETTLE_S)
    assert pace.due_in_s(1.001 + SETTLE_S) == 0.0
    pace.took()
    assert pace.due_in_s(2.0) is None


def test_noise_takes_a_tenth_of_the_time_at_most() -> None:
    """Others that write all the time, nothing of ours, cost a bounded part of a core, and the first damage is seen."""
    read = drive(Pace(), 60.0, 0.2, ())
    assert len(read) * 0.2 <= 60.0 / 10 + 1.0
    gaps = [b - a for a, b in itertools.pairwise(read)]
    assert max(gaps) <= 5.01


def test_a_fight_is_a_bounded_number_of_repairs() -> None:
    """Who puts his line before ours at every moment is not answered at every moment, and is named."""
    pace = Pace()
    read = drive(pace, 120.0, 0.01, ("jump v4 filter FORWARD",))
    assert FREE_REPAIRS < len(read) <= 3 * FREE_REPAIRS
    assert pace.fights(220.0) == {"jump v4 filter FORWARD": len([at for at in read if at >= 160.0])}
    assert pace.fights(300.0) == {}


def test_a_few_repairs_of_many_objects_are_no_fight() -> None:
    """Only the same object again and again slows its subsystem."""
    pace = Pace()
    for i in range(200):
        pace.read(100.0 + i * 0.2, 0.01, [f"chain {i}"])
    assert pace.fights(140.0) == {}
    pace.ask(139.9)
    assert (pace.due_in_s(139.9) or 0.0) <= 0.11


@given(st.floats(0.0, 10.0))
def test_looks_are_bounded_in_cost_and_in_time(cost_s: float) -> None:
    """A look takes at most a part in 200, as far as the longest pause allows; the pause is never over 20 s."""
    pause = pause_s(cost_s)
    assert 0.5 <= pause <= 20.0
    assert cost_s <= pause / 200 or pause == 20.0


def test_digests_tell_what_is_new_gone_and_other() -> None:
    """At the first look all is new."""
    digests = Digests()
    assert digests.changed({"a": b"1", "b": b"2"}) == {"a", "b"}
    assert digests.changed({"a": b"1", "b": b"2"}) == set()
    assert digests.changed({"a": b"1", "c": b"2"}) == {"b", "c"}
