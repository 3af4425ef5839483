"""The memory of requests by their idempotency key."""

import pytest

from hopwall_api import outcomes
from hopwall_api.outcomes import KEEP_S, Memory, Outcome, Written
from hopwall_model.resources import Key


def written(name: str, revision: int = 1) -> Written:
    """Return one written resource."""
    return Written(key=Key("Node", "", name), word="created", revision=revision, resource=None)


def one(name: str) -> Outcome:
    """Return the outcome of a request that wrote one resource."""
    return Outcome(form="one", written=(written(name),))


def test_a_request_is_recalled_for_a_day() -> None:
    """Within 24 hours the outcome is known with the request's hash, afterwards not."""
    memory = Memory()
    memory.remember("k", "hash", one("a"), now=100.0)
    assert memory.recall("k", 100.0 + KEEP_S) == ("hash", one("a"))
    assert memory.recall("k", 101.0 + KEEP_S) is None
    assert memory.recall("other", 100.0) is None


def test_events_of_one_request_are_gathered() -> None:
    """What is folded from the stream adds up, each resource once."""
    memory = Memory()
    for name in ("a", "b", "a"):
        memory.gather("k", "hash", written(name), form="many", until=10.0)
    recalled = memory.recall("k", 5.0)
    assert recalled is not None
    assert sorted(w.key.name for w in recalled[1].written) == ["a", "b"]
    assert recalled[1].form == "many"


def test_the_whole_outcome_beats_what_is_gathered() -> None:
    """The process that carried it out knows more than the events say."""
    memory = Memory()
    memory.remember("k", "hash", one("a"), now=0.0)
    memory.gather("k", "hash", written("b"), form="many", until=10.0)
    assert memory.recall("k", 0.0) == ("hash", one("a"))


def test_memory_is_bounded_by_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest requests are forgotten first, however many resources each had."""
    monkeypatch.setattr(outcomes, "MAX_REMEMBERED", 10)
    memory = Memory()
    for i in range(5):
        many = Outcome(form="many", written=tuple(written(f"n{j}") for j in range(4)))
        memory.remember(f"k{i}", "hash", many, now=0.0)
    known = [i for i in range(5) if memory.recall(f"k{i}", 0.0)]
    assert known == [3, 4]
