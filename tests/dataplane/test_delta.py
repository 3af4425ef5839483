import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopwall_dataplane.delta import ABSENT, Delta

keys = st.sampled_from("abcd")
values = st.sampled_from([None, 1, 2])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set_desired"), keys, values),
        st.tuples(st.just("remove_desired"), keys),
        st.tuples(st.just("mark_actual"), keys, st.one_of(values, st.just(ABSENT))),
        st.tuples(st.just("replace_actual"), st.dictionaries(keys, values)),
        st.tuples(st.just("park"), keys),
        st.tuples(st.just("unpark_all")),
    ),
    max_size=40,
)


class _Dumb:
    """Recomputes everything from two dictionaries at each question."""

    def __init__(self) -> None:
        self.desired: dict[str, int | None] = {}
        self.actual: dict[str, int | None] = {}
        self.parked: set[str] = set()

    def differs(self, key: str) -> bool:
        return self.desired.get(key, ABSENT) != self.actual.get(key, ABSENT)

    def set_desired(self, key: str, value: int | None) -> None:
        if self.desired.get(key, ABSENT) != value:
            self.parked.discard(key)
        self.desired[key] = value

    def remove_desired(self, key: str) -> None:
        if key in self.desired:
            del self.desired[key]
            self.parked.discard(key)

    def mark_actual(self, key: str, value: object) -> None:
        self.actual.pop(key, None)
        if value is None or isinstance(value, int):
            self.actual[key] = value

    def replace_actual(self, actual: dict[str, int | None]) -> None:
        self.actual = dict(actual)

    def park(self, key: str) -> None:
        if self.differs(key):
            self.parked.add(key)

    def unpark_all(self) -> None:
        self.parked.clear()

    def settle(self) -> None:
        self.parked = {key for key in self.parked if self.differs(key)}

    def sets(self) -> list[tuple[str, int | None]]:
        return [
            (key, value)
            for key, value in sorted(self.desired.items())
            if self.differs(key) and key not in self.parked
        ]

    def removals(self) -> list[tuple[str, int | None]]:
        return [
            (key, value)
            for key, value in sorted(self.actual.items())
            if key not in self.desired and key not in self.parked
        ]


@given(steps)
def test_delta_equals_the_recompute_after_every_step(steps: list[tuple[object, ...]]) -> None:
    """Whatever happens in whatever order, pending is the difference less what is parked."""
    delta: Delta[str, int | None] = Delta()
    dumb = _Dumb()
    for name, *arguments in steps:
        getattr(delta, str(name))(*arguments)
        getattr(dumb, str(name))(*arguments)
        dumb.settle()
        assert delta.pending_sets() == dumb.sets()
        assert delta.pending_removals() == dumb.removals()
        assert delta.parked.keys() == dumb.parked
        assert bool(delta) == bool(dumb.sets() or dumb.removals())
        assert len(delta) == len(list(delta))


@given(steps)
def test_doing_what_is_pending_leaves_nothing_pending(steps: list[tuple[object, ...]]) -> None:
    """Applying every pending change makes actual equal to desired."""
    delta: Delta[str, int | None] = Delta()
    for name, *arguments in steps:
        getattr(delta, str(name))(*arguments)
    delta.unpark_all()
    for key, value in delta.pending_sets():
        delta.mark_actual(key, value)
    for key, _ in delta.pending_removals():
        delta.mark_actual(key, ABSENT)
    assert not delta
    assert delta.actual == delta.desired


def test_none_is_a_value_and_not_an_absence() -> None:
    """A key whose value is None is there."""
    delta: Delta[str, None] = Delta()
    delta.set_desired("a", None)
    assert delta.pending_sets() == [("a", None)]
    delta.mark_actual("a", None)
    assert not delta


@pytest.mark.parametrize("again", [1, 2])
def test_refused_value_is_not_tried_again_until_it_changes(again: int) -> None:
    """A parked key stays out when the same value is wanted again, and returns with another."""
    delta: Delta[str, int] = Delta()
    delta.set_desired("a", 1)
    delta.park("a")
    assert not delta
    delta.replace_actual({})
    assert not delta
    delta.set_desired("a", again)
    assert delta.pending_sets() == ([] if again == 1 else [("a", 2)])


def test_a_great_change_leaves_nothing_behind_for_small_ones_to_walk() -> None:
    """Planning costs what is pending now, not what once was: an emptied set walks the table it had."""
    delta: Delta[int, int] = Delta()
    for key in range(10_000):
        delta.set_desired(key, 0)
    for key in range(10_000):
        delta.mark_actual(key, 0)
    for key in range(10_000):
        delta.remove_desired(key)
    for key in range(10_000):
        delta.mark_actual(key, ABSENT)
    delta.set_desired(1, 1)
    assert sys.getsizeof(delta._sets) == sys.getsizeof({1})
    assert sys.getsizeof(delta._removals) == sys.getsizeof(set())
