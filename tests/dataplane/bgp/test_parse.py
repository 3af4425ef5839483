"""What BIRD says, read: answers as BIRD 2.0.12 gave them."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.bgp import parse
from hopwall_model.status import BgpSession

ANSWERS = Path(__file__).parent / "answers"
STATUS = (ANSWERS / "status.txt").read_text().removesuffix("\n")

PROTOCOLS = (ANSWERS / "protocols.txt").read_text().removesuffix("\n")


def read(text: str) -> parse.Reply:
    """Read an answer."""
    return parse.reply(text.split("\n"))


def test_an_answer_ends_where_its_code_is_followed_by_a_space() -> None:
    """Continued lines take the code before; what is said to others is skipped."""
    lines = STATUS.split("\n")
    assert [parse.is_last(line) for line in lines] == [False] * 6 + [True]
    found = parse.reply(["+other", *lines])
    assert found.code == 13
    assert found.ok
    assert found.lines[2] == (1011, "Hostname is h1")


@pytest.mark.parametrize("lines", [[], [" text"], ["hello"], ["0001-ok", "x"]])
def test_what_is_no_answer_is_an_error(lines: list[str]) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="BIRD's answer"):
        parse.reply(lines)


def test_the_daemon_says_who_it_is() -> None:
    """Version, router ID and when it was last configured."""
    found = parse.daemon(read(STATUS))
    assert found == parse.Daemon("2.0.12", "172.30.0.1", "2026-01-02 09:59:58.733")
    assert parse.daemon(read("0013 Daemon is up")) == parse.Daemon()


def test_sessions_are_read_with_their_counts_and_their_error() -> None:
    """Ours by their name; other protocols are left out."""
    names = {"hw_mesh": "mesh/h2", "hw_tor": "peer/tor/1", "hw_off": "off", "hw_device": "no"}
    assert parse.sessions(read(PROTOCOLS), names) == {
        "mesh/h2": BgpSession(
            name="mesh/h2",
            state="Established",
            since="09:59:59.104",
            imported=50,
            filtered=3,
            exported=7,
        ),
        "peer/tor/1": BgpSession(
            name="peer/tor/1",
            state="Active",
            since="2026-01-01",
            last_error="Socket: Connection refused",
        ),
        "off": BgpSession(name="off", state="Down", since="09:59:50.001"),
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/run/bird.conf.new:12:3 syntax error", (12, "syntax error")),
        ("/run/x.conf: No such file or directory", (0, "BIRD does not accept the configuration.")),
    ],
)
def test_a_fault_has_a_line(text: str, found: tuple[int, str]) -> None:
    """The line, and BIRD's words."""
    assert parse.config_fault(text) == found


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=60), max_size=8))
def test_no_answer_breaks_the_reader(lines: list[str]) -> None:
    """Whatever is said is read or is a `ValueError`."""
    text = [f"1002-{line}" for line in lines] + [f"1006-{line}" for line in lines] + ["0000 "]
    assert parse.sessions(parse.reply(text), {}) == {}
    with contextlib.suppress(ValueError):
        parse.daemon(parse.reply(lines))
