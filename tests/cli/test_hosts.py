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
