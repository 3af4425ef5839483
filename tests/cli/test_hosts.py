"""The rows of `hopwall hosts`."""

from hopwall_cli.commands.hosts import HEADING, notes_of, row_of


def test_a_silent_host_is_not_called_in_sync() -> None:
    """What a host said last is no news when it has said nothing since."""
    host = {"host": "h1", "reported": True, "inSync": True, "revision": 7, "silentS": 23}
    assert row_of(host)[:3] == ["h1", "silent 23 s", "7"]
    del host["silentS"]
    assert row_of(host)[1] == "in sync"


def test_a_host_that_never_reported_is_said_so() -> None:
    """A declared host without an agent is shown as such."""
    assert row_of({"host": "h2", "reported": False})[1] == "never reported"


def test_bgp_is_said_in_short_and_why_not_below() -> None:
    """How many sessions are up stands in the row; the reason is a sentence."""
    host = {
        "host": "h1",
        "reported": True,
        "inSync": True,
        "bgp": {"inSync": False, "nSessions": 2},
    }
    assert row_of(host)[HEADING.index("BGP")] == "0/2, not in sync"
    host["bgp"] = {"inSync": True, "nSessions": 2, "nEstablished": 1}
    assert row_of(host)[HEADING.index("BGP")] == "1/2"
    assert notes_of({"host": "h1", "bgp": {"reason": "BIRD does not answer."}}) == [
        "h1, BGP: BIRD does not answer."
    ]


def test_a_host_that_goes_by_an_older_state_says_why_and_what_to_do() -> None:
    """The last-good state, what is held back with the way out, and what is not on disk."""
    host = {
        "host": "h1",
        "reported": True,
        "lastGood": {"epoch": "e1", "revision": 7, "since": "2026-01-01T00:00:00Z"},
    }
    assert row_of(host)[1] == "last-good"
    host |= {"held": {"epoch": "e2", "revision": 1, "reason": "It lacks 12 of 12 endpoints."}}
    host |= {"notKept": "The disk is full."}
    assert row_of(host)[1] == "holds back"
    assert notes_of(host) == [
        "h1 enforces the last-good state of revision 7 / epoch e1 since 2026-01-01T00:00:00Z: "
        "calc has not been heard.",
        "h1 goes on with what it has. It lacks 12 of 12 endpoints. Where that is right: "
        "hopwall hosts release h1",
        "h1: The disk is full.",
    ]
