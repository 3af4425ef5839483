"""Whether a stream is the one of before: the cases."""

import pytest

from hopwall_runtime.history import History, Sighting


def sighting(
    last: int = 10, *, store: str = "s", created: str = "t", at: int | None = 100
) -> Sighting:
    """Return what a stream shows."""
    return Sighting(store=store, created=created, last_revision=last, at_anchor=at)


def followed() -> History:
    """Return the history of a stream whose message 10 was seen, stored at 100."""
    history = History()
    assert history.resume(sighting(0, at=None)) == ""
    history.note(10, 100)
    return history


@pytest.mark.parametrize("last", [10, 11, 500])
def test_a_stream_that_only_grew_is_the_same(last: int) -> None:
    """The message seen last is where it was, so everything before it is too."""
    history = followed()
    before = history.id
    assert history.resume(sighting(last)) == ""
    assert history.id == before


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (sighting(9, at=None), "tail is lost"),
        (sighting(10, at=101), "tail was lost"),
        (sighting(500, at=101), "tail was lost"),
        (sighting(10, at=None), "gone"),
        (sighting(500, at=None), "gone"),
        (sighting(store="other"), "store other"),
        (sighting(created="later"), "later"),
        (sighting(0, store="", at=None), "without an id"),
    ],
)
def test_any_doubt_is_another_history(seen: Sighting, word: str) -> None:
    """A lost tail, also one that has grown again, another store, a recreated one: each is noticed, once."""
    history = followed()
    before = history.id
    assert word in history.resume(seen)
    assert history.id != before
    after = history.id
    assert history.resume(seen) == ""
    assert history.id == after


def test_the_first_look_is_no_change() -> None:
    """Who has seen nothing has nothing to miss."""
    assert History().resume(sighting(500, at=None)) == ""


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (sighting(10), ""),
        (sighting(12), ""),
        (sighting(80, at=None), ""),
        (sighting(10, at=None), "taken away"),
        (sighting(9, at=None), "tail is lost"),
        (sighting(12, at=101), "tail was lost"),
        (sighting(store="other"), "store other"),
    ],
)
def test_an_audit_finds_what_must_not_be(seen: Sighting, word: str) -> None:
    """While following, what is there must be what was delivered; a value pushed out by 64 newer is no fault."""
    said = followed().audit(seen)
    assert word in said
    assert bool(said) == bool(word)
