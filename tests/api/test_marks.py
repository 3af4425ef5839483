"""Which revisions lie within a restore, as heard live, and after a time in which nothing was heard."""

from random import Random

from hopwall_api.marks import Marks
from hopwall_api.store import Store
from hopwall_model.events import RestoreBegun, RestoreEnded

BEGUN = RestoreBegun(file="f", at="")
ENDED = RestoreEnded(file="f")


def within(marks: Marks, last: int) -> list[int]:
    """Return the revisions that lie within a restore."""
    return [revision for revision in range(1, last + 1) if marks.within(revision)]


def test_what_lies_between_begin_and_end_is_within() -> None:
    """Begun again (another file instead) it goes on; what lies before and behind is outside, the marks are neither."""
    marks = Marks()
    for revision, begun in ((3, True), (6, True), (8, False), (10, False), (12, True)):
        marks.note(revision, begun=begun)
    assert within(marks, 14) == [4, 5, 6, 7, 13, 14]


def test_what_was_not_heard_may_have_been_within() -> None:
    """Of marks that were missed only the last is known: all before it, back to what was heard, is in doubt."""
    marks = Marks()
    marks.jump(4, 9, begun=False)
    assert within(marks, 12) == [6, 7, 8]
    marks.jump(12, 9, begun=False)
    marks.jump(12, 15, begun=True)
    assert within(marks, 16) == [6, 7, 8, 14, 15, 16]


Events = list[RestoreBegun | RestoreEnded | None]


def folded(events: Events, chance: Random | None) -> Store:
    """Return a replica that heard all; with chance, some of it only as the last word of a snapshot."""
    store = Store()
    store.begin("s")
    store.caught_up(0)
    at = 0
    while at < len(events):
        to = min(len(events), at + (chance.randrange(1, 15) if chance else len(events)))
        heard = [(r, e) for r in range(at + 1, to + 1) if (e := events[r - 1]) is not None]
        if chance and chance.random() < 0.5:
            store.begin("s")
            marks = [(r, e) for r, e in enumerate(events[:to], start=1) if e is not None]
            heard = marks[-1:]
        for revision, event in heard:
            store.fold(revision, event)
        store.caught_up(to)
        at = to
    return store


def test_a_replica_that_missed_marks_calls_no_write_safe_that_is_not() -> None:
    """Any history, heard in any pieces: whoever lies within a restore is within for all; nobody who heard all errs."""
    kinds: Events = [None, None, None, None, BEGUN, ENDED]
    for number in range(300):
        chance = Random(number)
        events = [chance.choice(kinds) for _ in range(40)]
        plain = [revision for revision, event in enumerate(events, start=1) if event is None]
        truth = set()
        for revision in plain:
            before = [event for event in events[:revision] if event is not None]
            truth |= {revision} if before and before[-1] is BEGUN else set()
        whole, pieces = folded(events, None), folded(events, chance)
        assert {r for r in plain if whole.within_restore(r)} == truth
        assert truth <= {r for r in plain if pieces.within_restore(r)}
