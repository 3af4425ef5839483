"""Which of BIRD's times mean one moment, and that a status is not another because of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.bgp.times import kept, same, steady
from hopwall_model.status import BgpSession, BgpStatus


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("12:51:58.579", "12:51:58.580"),
        ("12:51:58.580", "12:51:58.579"),
        ("12:51:58.999", "12:51:59.004"),
        ("23:59:59.999", "00:00:00.001"),
        ("00:00:00.001", "23:59:59.999"),
        ("12:51:58", "12:51:58.999"),
        ("2026-11-27 12:51:58.579", "2026-11-27 12:51:58.580"),
        ("2026-12-31 23:59:59.999", "2027-01-01 00:00:00.001"),
    ],
)
def test_a_moment_that_is_printed_apart_is_one(before: str, now: str) -> None:
    """Some milliseconds, around midnight and New Year too; the words read first stay."""
    assert same(before, now)
    assert kept(before, now) == before


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("12:51:58.579", "12:51:59.579"),
        ("12:51:58.579", "11:51:58.579"),
        ("2026-11-26 12:51:58.579", "2026-11-27 12:51:58.579"),
        ("2026-11-26", "12:51:58.579"),
        ("12:51:58.579", "2026-11-27 12:51:58.579"),
        ("", "12:51:58.579"),
        ("12:51:58.579", ""),
        ("99:51:58.579", "99:51:58.580"),
        ("2026-13-27 12:51:58.579", "2026-13-27 12:51:58.580"),
    ],
)
def test_another_moment_is_another(before: str, now: str) -> None:
    """A second is a change, and so is what is no time; the new words count."""
    assert not same(before, now)
    assert kept(before, now) == now


@pytest.mark.parametrize("before", ["12:51:58.579", "2026-11-26", "2026-11-27"])
def test_a_date_alone_is_nothing_new(before: str) -> None:
    """What BIRD tells by its day is 20 hours old; people see the day."""
    assert same(before, "2026-11-27")
    assert kept(before, "2026-11-27") == "2026-11-27"


@given(before=st.text(max_size=30), now=st.text(max_size=30))
def test_whatever_is_printed_is_words(before: str, now: str) -> None:
    """What is not understood is the same only as itself, and never an exception."""
    assert same(before, before)
    assert kept(before, now) in {before, now}


def status(ms: int, *, shown: bool = True, **more: object) -> BgpStatus:
    """Return a status read when BIRD printed its moments this many milliseconds late."""
    given = {"name": "mesh/h2", "state": "Active", "since": f"10:00:00.{ms:03}", **more}
    sessions = (BgpSession(**given), BgpSession(name="mesh/h3", state="absent"))  # type: ignore[arg-type]
    at = f"2026-11-27 10:00:00.{ms:03}"
    return BgpStatus(in_sync=True, last_reconfigured=at, sessions=sessions[not shown :])


def test_a_status_is_no_other_because_bird_prints_its_times_apart() -> None:
    """Else each host would tell all again now and then, with nothing changed."""
    assert steady(status(1), status(3)) == status(1)
    assert steady(steady(status(1), status(3)), status(5)) == status(1)
    up = status(3, state="Established")
    assert (steady(status(1), up) or up).sessions == up.sessions
    changed = status(3, state="Established", since="10:00:07.000")
    assert steady(status(3), changed) == changed
    assert steady(status(1, shown=False), status(1)) == status(1)


def test_a_status_is_itself_where_there_was_none() -> None:
    """Nothing is made up."""
    assert steady(None, status(1)) == status(1)
    assert steady(status(1), None) is None
    away = BgpStatus(in_sync=False, reason="BIRD does not answer")
    assert steady(status(1), away) == away
    assert steady(away, status(1)) == status(1)
