"""The incremental engine: nodes that own one fact each, and a list of edges between them.

A flush visits the nodes in the order of the edges. For each edge whose producer changed, the consumer's
handler says which of its own keys are dirty; then the node computes those keys from its inputs as they
are now. `compute` is the only definition of a fact: the incremental path and its twin, `recompute`,
differ only in which keys they ask for.

Refuses: input and output, time, and knowing what any node is about.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class Answer(Enum):
    """What a handler did with its producer's change."""

    #: What depends on it is marked dirty.
    HANDLED = "handled"
    #: Nothing here depends on what changed.
    UNAFFECTED = "unaffected"
    #: It cannot tell; the node is recomputed. Always allowed.
    UNHANDLED = "unhandled"


def answer(dirty: bool) -> Answer:
    """Return HANDLED if something became dirty, else UNAFFECTED."""
    return Answer.HANDLED if dirty else Answer.UNAFFECTED


class Failure(Struct, frozen=True):
    """A key that could not be computed, and is closed instead."""

    where: str
    key: str
    reason: str


def attempt(where: str, key: object, function: Callable[[], T]) -> T | Failure:
    """Return what the function returns, or why it could not.

    The one place where any fault is caught: a bug met by one key must not stop the others.
    """
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - see above; the failure travels on as a value
        return Failure(where, str(key), f"{type(error).__name__}: {error}")


class Table(Generic[K, V]):
    """Values by key, and for each key that changed since `settle` the value it had before.

    A value set back to what it was is no change: hence coalescing.
    """

    __slots__ = ("changed", "values")

    def __init__(self) -> None:
        self.values: dict[K, V] = {}
        self.changed: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        """Return the value, or None if absent."""
        return self.values.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def __iter__(self) -> Iterator[K]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def put(self, key: K, value: V | None) -> None:
        """Set the value; None removes it."""
        old = self.values.get(key)
        if old == value:
            return
        if key not in self.changed:
            self.changed[key] = old
        elif self.changed[key] == value:
            del self.changed[key]
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value

    def settle(self) -> None:
        """Forget what changed."""
        self.changed = {}


class Node:
    """A vertex of the graph: owns one fact, and its recompute twin."""

    name = ""

    def __init__(self) -> None:
        self.n_handled = 0
        self.n_recomputed = 0
        self.failures: list[Failure] = []

    def has_changes(self) -> bool:
        """Tell whether the fact changed since `settle`."""
        raise NotImplementedError

    def finish(self) -> None:
        """Bring the fact up to date for what the handlers marked."""

    def recompute(self) -> None:
        """Derive the whole fact from the inputs."""

    def settle(self) -> None:
        """Forget what changed: every consumer has seen it."""
        raise NotImplementedError

    def facts(self) -> Any:
        """Return the fact as plain values, to be compared with another's."""
        raise NotImplementedError


class KeyedNode(Node, Generic[K, V]):
    """A node whose fact is one value for each key."""

    def __init__(self) -> None:
        super().__init__()
        self.out: Table[K, V] = Table()
        self.dirty: set[K] = set()

    def keys(self) -> Iterable[K]:
        """Return every key that may have a value."""
        raise NotImplementedError

    def compute(self, key: K) -> V | None:
        """Return the value of a key from the inputs as they are now; None if it has none."""
        raise NotImplementedError

    def closed(self, key: K) -> V | None:
        """Return the value of a key that cannot be computed: what lets nothing through."""
        del key
        return None

    def rebuild(self) -> None:
        """Derive private indexes from the inputs, for `recompute`."""

    def mark(self, keys: Iterable[K]) -> Answer:
        """Mark keys dirty, from a handler."""
        before = len(self.dirty)
        self.dirty.update(keys)
        return answer(len(self.dirty) > before)

    def has_changes(self) -> bool:
        """Tell whether a value changed since `settle`."""
        return bool(self.out.changed)

    def finish(self) -> None:
        """Compute the dirty keys."""
        keys, self.dirty = list(self.dirty), set()
        values = attempt(self.name, "all", lambda: [self.compute(key) for key in keys])
        if isinstance(values, Failure):
            # One of them fails: ask for each by itself.
            values = [self._compute_or_close(key) for key in keys]
        for key, value in zip(keys, values, strict=True):
            self.out.put(key, value)

    def _compute_or_close(self, key: K) -> V | None:
        value = attempt(self.name, key, lambda: self.compute(key))
        if isinstance(value, Failure):
            self.failures.append(value)
            return self.closed(key)
        return value

    def recompute(self) -> None:
        """Compute every key, with fresh indexes."""
        self.rebuild()
        self.dirty = {*self.keys(), *self.out}
        self.finish()

    def settle(self) -> None:
        """Forget what changed."""
        self.out.settle()

    def facts(self) -> dict[K, V]:
        """Return the values by key."""
        return dict(self.out.values)


class Source(KeyedNode[K, V]):
    """A node without inputs: what the events said last."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def recompute(self) -> None:
        """Do nothing: there is nothing to derive it from."""


Handler = Callable[[], Answer]


class Edge(NamedTuple):
    """The consumer's handler is called when the producer changed."""

    producer: Node
    consumer: Node
    handler: Handler


class Engine:
    """Runs the nodes of an edge list, each after all it consumes."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.edges = tuple(edges)
        self.nodes = _in_order(self.edges)
        self._inputs = {
            id(node): [edge for edge in self.edges if edge.consumer is node] for node in self.nodes
        }

    def run(self, *, recompute_all: bool = False) -> None:
        """Bring every node up to date.

        Errors: what a node's `recompute` raises: nothing is left to fall back to.
        Cost:   O(edges) when nothing changed, else what the dirty keys cost.
        """
        for node in self.nodes:
            answers = self._update(node)
            if recompute_all or Answer.UNHANDLED in answers:
                node.n_recomputed += 1
                node.recompute()
            elif Answer.HANDLED in answers:
                node.n_handled += 1

    def _update(self, node: Node) -> set[Answer]:
        """Let the node take in what changed; a fault while it does is an UNHANDLED."""
        changed = [edge for edge in self._inputs[id(node)] if edge.producer.has_changes()]

        def update() -> set[Answer]:
            answers = {edge.handler() for edge in changed}
            if Answer.HANDLED in answers and Answer.UNHANDLED not in answers:
                node.finish()
            return answers

        answers = attempt(node.name, "incremental update", update) if changed else set()
        if isinstance(answers, Failure):
            node.failures.append(answers)
            return {Answer.UNHANDLED}
        return answers

    def settle(self) -> None:
        """Forget what changed everywhere."""
        for node in self.nodes:
            node.settle()

    def take_failures(self) -> list[Failure]:
        """Return what could not be computed since the last call."""
        found = [failure for node in self.nodes for failure in node.failures]
        for node in self.nodes:
            node.failures = []
        return found


def _in_order(edges: Sequence[Edge]) -> tuple[Node, ...]:
    """Return the nodes so that producers come first; otherwise as the edges name them."""
    waiting = list(dict.fromkeys(node for edge in edges for node in (edge.producer, edge.consumer)))
    ordered: list[Node] = []
    while waiting:
        ready = next(
            (
                node
                for node in waiting
                if all(edge.producer not in waiting for edge in edges if edge.consumer is node)
            ),
            None,
        )
        if ready is None:
            raise ValueError(f"The edges have a cycle through {waiting[0].name}.")
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def mermaid(edges: Sequence[Edge]) -> str:
    """Return the edges as a Mermaid flow chart; sources are round."""
    nodes = _in_order(edges)
    lines = ["flowchart LR"]
    for node in nodes:
        shape = f'(["{node.name}"])' if isinstance(node, Source) else f'["{node.name}"]'
        lines.append(f"    {node.name}{shape}")
    lines += [f"    {edge.producer.name} --> {edge.consumer.name}" for edge in edges]
    return "\n".join(lines) + "\n"
