"""The judge of histories: each wrong is seen, and a right one is not blamed."""

from dataclasses import replace

from tests.faults.histories import Stored, Write, judge

FIRST = Write(key="a", token="t1", base=0, begun=0, ended=1, outcome="acked", revision=1)
SECOND = Write(key="a", token="t2", base=1, begun=2, ended=3, outcome="acked", revision=2)
STORED = [Stored(key="a", token="t1", revision=1), Stored(key="a", token="t2", revision=2)]
SHOWN = {"a": "t2"}


def test_a_right_history_is_right() -> None:
    """Acknowledged and stored, in order: nothing to blame; an unknown write may be stored or not."""
    unknown = Write(key="a", token="t3", base=2, begun=4, ended=9, outcome="unknown")
    for writes in ([FIRST, SECOND], [FIRST, replace(SECOND, outcome="unknown"), unknown]):
        found = judge(writes, STORED, SHOWN)
        assert (found.lost, found.faults) == (0, [])


def test_an_acknowledged_write_that_is_not_there_is_lost() -> None:
    """Missing, or another one in its place: lost either way."""
    assert judge([FIRST, SECOND], STORED[:1], {"a": "t1"}).lost == 1
    other = [STORED[0], Stored(key="a", token="x", revision=2)]
    assert judge([FIRST, SECOND], other, {"a": "x"}).lost == 1


def test_a_lost_update_is_seen() -> None:
    """Two that replaced the same revision: one of them overwrote what it had not seen."""
    third = Write(key="a", token="t3", base=1, begun=2, ended=3, outcome="acked", revision=3)
    stored = [*STORED, Stored(key="a", token="t3", revision=3)]
    (fault,) = judge([FIRST, SECOND, third], stored, {"a": "t3"}).faults
    assert "was to replace 1, and replaced 2" in fault


def test_a_refused_write_that_is_stored_is_seen() -> None:
    """What was said not to be stored must not be."""
    faults = judge([FIRST, replace(SECOND, outcome="refused")], STORED, SHOWN).faults
    assert faults == ["t2 was refused, and is stored"]


def test_a_double_and_a_wrong_order_and_a_stale_read_are_seen() -> None:
    """One write stored twice; a later one before an earlier one; a read that shows an old value."""
    twice = [*STORED, Stored(key="a", token="t2", revision=3)]
    assert "stored 2 times" in judge([FIRST, SECOND], twice, SHOWN).faults[0]
    early = replace(FIRST, begun=5, ended=6, base=None)
    assert "after 2 was acknowledged" in judge([early, SECOND], STORED, SHOWN).faults[0]
    assert "is the last word" in judge([FIRST, SECOND], STORED, {"a": "t1"}).faults[0]
