"""Of several lives of calc the last that began is obeyed, as long as it is heard."""

import pytest

from hopwall_model.epochs import SILENT_S, Succession, epoch_name, term_of

A, B = epoch_name("s", "aaaa", 10), epoch_name("s", "bbbb", 20)


@pytest.mark.parametrize(
    ("epoch", "term"),
    [(A, 10), (f"{A}++", 10), ("", 0), ("01J0", 0), ("s.0f", 0), (epoch_name("", "c", 7), 7)],
)
def test_a_term_is_read_from_a_name(epoch: str, term: int) -> None:
    """Names of versions without terms have none."""
    assert term_of(epoch) == term


def test_who_began_later_is_obeyed_and_who_began_earlier_is_not() -> None:
    """One that was frozen and wakes up takes nobody back, whatever it knows."""
    heard = Succession()
    assert heard.obeys(A, 5, 0.0)
    assert heard.obeys(B, 5, 1.0)
    assert not heard.obeys(A, 9, 2.0)
    assert heard.obeys(B, 6, 3.0)


def test_who_began_later_and_knows_less_is_obeyed_once_the_other_is_silent() -> None:
    """Both read one stream: what the other has read comes, and nobody is taken back until then."""
    heard = Succession()
    assert heard.obeys(A, 5, 0.0)
    assert not heard.obeys(B, 4, 1.0)
    assert heard.obeys(A, 6, 2.0)
    assert not heard.obeys(B, 5, 2.0 + SILENT_S)
    assert heard.obeys(B, 5, 2.5 + SILENT_S)


def test_who_began_later_and_knows_less_is_obeyed_where_it_is_another_stream() -> None:
    """The ruling calc itself says that its stream has lost something; another intent has revisions of its own."""
    for later in (epoch_name("s", "aaaa", 11), epoch_name("t", "bbbb", 20)):
        heard = Succession()
        assert heard.obeys(A, 5, 0.0)
        assert heard.obeys(later, 3, 1.0)


def test_who_was_obeyed_before_a_restart_is_obeyed_after_it_or_forgotten() -> None:
    """A process that begins again is not taken back by who was deposed, and waits for nobody who is gone."""
    heard = Succession()
    heard.recalls(B, 5, 0.0)
    assert not heard.obeys(A, 5, SILENT_S)
    assert heard.obeys(A, 4, SILENT_S + 1)
    heard.recalls(B, 5, 0.0)
    assert heard.obeys(B, 5, 1.0)
    assert not heard.obeys(A, 4, SILENT_S + 2)


def test_an_epoch_that_begins_anew_by_itself_follows_itself() -> None:
    """What calc adds to a name makes a later one of the same term."""
    heard = Succession()
    assert heard.obeys(B, 1, 0.0)
    assert heard.obeys(f"{B}+", 1, 0.0)
    assert not heard.obeys(B, 1, 0.0)


def test_where_the_last_is_silent_an_earlier_one_is_obeyed_if_it_knows_no_less() -> None:
    """A host is not left alone for ever, and never taken back by who was cut off."""
    heard = Succession()
    assert heard.obeys(B, 7, 0.0)
    assert not heard.obeys(A, 7, SILENT_S)
    assert not heard.obeys(A, 6, SILENT_S + 1)
    assert heard.obeys(A, 7, SILENT_S + 1)


def test_epochs_without_a_term_are_obeyed_as_they_come() -> None:
    """Versions that knew no terms mix with those that do."""
    heard = Succession()
    assert heard.obeys(B, 1, 0.0)
    assert heard.obeys("old", 1, 0.0)
    assert heard.obeys(A, 1, 0.0)


def test_a_term_is_above_all_that_were_heard_of_whatever_the_clock_says() -> None:
    """A clock that goes back makes no earlier epoch."""
    heard = Succession()
    assert [heard.obeys(epoch, 1, 0.0) for epoch in (B, A)] == [True, False]
    assert heard.next_term(5) == 21
    assert heard.next_term(5) == 22
    assert heard.next_term(1000) == 1000
