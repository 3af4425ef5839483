"""The engine: tables, handlers' answers, order, faults."""

import pytest

from hopwall_calc.engine import Answer, Edge, Engine, Failure, KeyedNode, Source, Table, mermaid


class Doubled(KeyedNode[str, int]):
    """Key → twice the source's value; the answer its handler gives is set by the test."""

    name = "doubled"

    def __init__(self, source: Source[str, int], says: Answer = Answer.HANDLED) -> None:
        super().__init__()
        self._source = source.out
        self.says = says
        self.faulty = False
        self.asked: list[str] = []

    def on_source(self) -> Answer:
        """Mark what changed, or say what the test wants."""
        if self.faulty:
            raise RuntimeError("a bug in the handler")
        if self.says is Answer.HANDLED:
            return self.mark(self._source.changed)
        return self.says

    def keys(self) -> list[str]:
        """Return the source's keys."""
        return list(self._source)

    def compute(self, key: str) -> int | None:
        """Return twice the value; 13 is a bug."""
        self.asked.append(key)
        value = self._source.get(key)
        if value == 13:
            raise ValueError("13")
        return None if value is None else 2 * value

    def closed(self, key: str) -> int | None:
        """Return what stands in for a key that fails."""
        return -1


def wired(says: Answer = Answer.HANDLED) -> tuple[Source[str, int], Doubled, Engine]:
    """Return a source, a consumer and an engine that runs them."""
    source: Source[str, int] = Source("source")
    doubled = Doubled(source, says)
    return source, doubled, Engine([Edge(source, doubled, doubled.on_source)])


def test_table_forgets_a_change_that_was_undone() -> None:
    """A value that is set back to what it was has not changed."""
    table: Table[str, int] = Table()
    table.put("a", 1)
    table.settle()
    table.put("a", 2)
    assert table.changed == {"a": 1}
    table.put("a", 1)
    assert table.changed == {}
    table.put("a", None)
    table.put("b", 1)
    assert table.changed == {"a": 1, "b": None}
    assert list(table) == ["b"]


def test_handled_computes_only_what_is_dirty() -> None:
    """After one change one key is computed."""
    source, doubled, engine = wired()
    for key in "abc":
        source.out.put(key, 1)
    engine.run()
    engine.settle()
    doubled.asked.clear()
    source.out.put("b", 5)
    engine.run()
    assert doubled.asked == ["b"]
    assert doubled.out.values == {"a": 2, "b": 10, "c": 2}
    assert (doubled.n_handled, doubled.n_recomputed) == (2, 0)


def test_unhandled_recomputes_the_node() -> None:
    """A handler may give up; the result is the same."""
    source, doubled, engine = wired(Answer.UNHANDLED)
    source.out.put("a", 1)
    engine.run()
    engine.settle()
    source.out.put("a", None)
    source.out.put("b", 2)
    engine.run()
    assert doubled.out.values == {"b": 4}
    assert doubled.n_recomputed == 2


def test_unaffected_does_nothing() -> None:
    """A handler that says nothing depends on the change costs nothing more."""
    source, doubled, engine = wired(Answer.UNAFFECTED)
    source.out.put("a", 1)
    engine.run()
    assert (doubled.asked, doubled.n_handled, doubled.n_recomputed) == ([], 0, 0)


def test_a_key_that_fails_is_closed_and_named() -> None:
    """A bug met by one key closes that key and leaves the others."""
    source, doubled, engine = wired()
    source.out.put("bad", 13)
    source.out.put("good", 1)
    engine.run()
    assert doubled.out.values == {"bad": -1, "good": 2}
    assert engine.take_failures() == [Failure("doubled", "bad", "ValueError: 13")]
    assert engine.take_failures() == []


def test_a_handler_that_fails_is_a_recompute() -> None:
    """A bug in a handler costs a recompute, and is named."""
    source, doubled, engine = wired()
    doubled.faulty = True
    source.out.put("a", 1)
    engine.run()
    assert doubled.out.values == {"a": 2}
    assert doubled.n_recomputed == 1
    assert [failure.reason for failure in engine.take_failures()] == [
        "RuntimeError: a bug in the handler"
    ]


def test_a_cycle_is_refused() -> None:
    """Edges that lead in a circle are a mistake of wiring."""
    one, two = Doubled(Source("s")), Doubled(Source("s"))
    with pytest.raises(ValueError, match="cycle"):
        Engine([Edge(one, two, two.on_source), Edge(two, one, one.on_source)])


def test_mermaid_names_every_edge() -> None:
    """The picture has a line for each node and each edge."""
    _, _, engine = wired()
    assert mermaid(engine.edges).splitlines() == [
        "flowchart LR",
        '    source(["source"])',
        '    doubled["doubled"]',
        "    source --> doubled",
    ]
