"""The rows of `hopwall hosts`."""

from hopwall_cli.commands.hosts import row_of


def test_a_silent_host_is_not_called_in_sync() -> None:
    """What a host said last is no news when it has said nothing since."""
    host = {"host": "h1", "reported": True, "inSync": True, "revision": 7, "silentS": 23}
    assert row_of(host)[:3] == ["h1", "silent 23 s", "7"]
    del host["silentS"]
    assert row_of(host)[1] == "in sync"


def test_a_host_that_never_reported_is_said_so() -> None:
    """A declared host without an agent is shown as such."""
    assert row_of({"host": "h2", "reported": False})[1] == "never reported"
