"""A value that some node cannot bear: it is closed and named, and calc goes on for everybody else."""

from collections.abc import Callable
from typing import Any

import pytest

from hopwall_calc.engine import KeyedNode, Node, Source
from hopwall_calc.graph import Graph
from hopwall_calc.sequencer import Sequencer
from hopwall_model.events import ResourceSet
from hopwall_model.poison import failing
from hopwall_model.resources import Resource, key_of
from hopwall_model.updates import EndpointSet, PolicySet
from tests.support.states import TIERED, endpoint, gnp, rule

BAD = "poison"
LATER = endpoint("later", "h9", "10.65.9.9", labels={"role": "later"})
NODES = sorted(n.name for n in Graph("e").engine.nodes if not isinstance(n, Source))


def poisoned() -> list[Resource]:
    """Return an endpoint and a policy that nodes will not bear."""
    return [
        endpoint(BAD, "h1", "10.65.0.66", labels={"role": BAD}),
        gnp(BAD, f"role == '{BAD}'", rule(source={"selector": f"role == '{BAD}'"})),
    ]


def give(graph: Graph, *resources: Resource) -> None:
    """Say these resources as one burst, and flush."""
    for resource in resources:
        graph.on_event(ResourceSet(resource=resource), graph.revision + 1)
    graph.flush()


def seen(graph: Graph, host: str) -> dict[str, Any]:
    """Return by name what a host is told."""
    updates = graph.snapshot(host).updates
    return {u.id: u for u in updates if isinstance(u, EndpointSet | PolicySet)}


def names_bad(things: Any) -> bool:
    """Tell whether the poison is anywhere in there."""
    return BAD in repr(things)


def refuse(monkeypatch: pytest.MonkeyPatch, node: Node) -> None:
    """Let every node of this kind fail, handlers and recompute, while the poison is in what it reads or owns."""
    kind = type(node)

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            answer = method(self, *args)
            if names_bad(args) or (not isinstance(self, KeyedNode) and names_bad(self.facts())):
                raise RuntimeError("cannot bear it")
            return answer

        return call

    names = ("compute",) if isinstance(node, KeyedNode) else ("recompute", "finish")
    for name in names:
        monkeypatch.setattr(kind, name, guarded(getattr(kind, name)))


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("together", [True, False], ids=["at start", "later"])
def test_no_node_lets_one_object_stop_calc(
    monkeypatch: pytest.MonkeyPatch, name: str, together: bool
) -> None:
    """Wherever it fails: no exception, the failure is named, and news of others reach their hosts."""
    graph = Graph("e")
    node = next(n for n in graph.engine.nodes if n.name == name)
    refuse(monkeypatch, node)
    if together:
        give(graph, *TIERED, *poisoned())
    else:
        give(graph, *TIERED)
        assert graph.take_failures() == []
        give(graph, *poisoned())
    failed = graph.take_failures()
    give(graph, LATER)
    assert f"{LATER.metadata.namespace}/later" in seen(graph, "h9")
    good = Graph("e")
    give(good, *TIERED, LATER)
    for host in ("h1", "h2"):
        mine = seen(graph, host)
        theirs = seen(good, host)
        assert theirs.keys() <= mine.keys()
        for key in theirs:
            if isinstance(theirs[key], EndpointSet):
                assert mine[key] == theirs[key]
    if (BAD in repr(node.facts())) or failed:
        assert failed
        assert all(names_bad(failure) for failure in failed if failure.where == "quarantine")


def test_a_policy_that_fails_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be missing: what it selects would be open, or another policy's matter."""
    graph = Graph("e")
    kind = type(next(n for n in graph.engine.nodes if n.name == "sets"))

    def fails_with(method: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(self: Any) -> None:
            method(self)
            bad = graph_policy(self)
            if bad is not None and "allow" in repr(bad):
                raise RuntimeError("cannot bear it")

        return call

    def graph_policy(sets: Any) -> Any:
        return next((p for k, p in sets._policies.values.items() if BAD in k), None)

    for name in ("recompute", "finish"):
        monkeypatch.setattr(kind, name, fails_with(getattr(kind, name)))
    victim = endpoint("victim", "h1", "10.65.0.67", labels={"role": BAD})
    give(graph, *TIERED, victim, poisoned()[1])
    told = seen(graph, "h1")
    policy = told[f"gnp/{BAD}"]
    assert policy.ingress == () or all(r.action == "deny" for r in policy.ingress)
    assert policy.id in {
        p for t in told[f"{victim.metadata.namespace}/victim"].tiers for p in t.ingress
    }
    assert [f.key for f in graph.take_failures() if f.where == "quarantine"] == [
        str(key_of(poisoned()[1]))
    ]


def test_a_sequencer_that_fails_is_found_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails only when it is put into a message counts as well."""
    real = Sequencer._updates

    def fails(self: Sequencer, change: Any) -> Any:
        if any(names_bad(key) for key in change.endpoints):
            raise RuntimeError("cannot be said")
        return real(self, change)

    monkeypatch.setattr(Sequencer, "_updates", fails)
    graph = Graph("e")
    give(graph, *TIERED)
    before = graph.sequencer.epoch
    give(graph, *poisoned(), LATER)
    assert graph.sequencer.epoch != before
    assert f"{LATER.metadata.namespace}/later" in seen(graph, "h9")
    assert len(graph.take_failures()) == 1


@pytest.mark.parametrize("bad", [set(), {3}, {0, 9}, {4, 5, 6}, set(range(10))])
def test_exactly_the_failing_are_found(bad: set[int]) -> None:
    """However they lie; nothing when it fails without them."""
    asked = []

    def works(kept: Any) -> bool:
        asked.append(kept)
        return not bad & set(kept)

    assert failing(range(10), works) == sorted(bad)
    assert failing(range(10), lambda _: False) is None
