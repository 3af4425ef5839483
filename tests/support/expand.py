"""Expanders: from one list of states, more walks that must come out the same."""

from collections.abc import Iterator
from itertools import chain, pairwise

from hopwall_model.events import Event, ResourceRemoved, ResourceSet
from tests.support.states import EMPTY, State

#: One step is what is flushed together, and the state it must lead to.
Step = tuple[list[Event], State]


def events_between(old: State, new: State, *, backwards: bool = False) -> list[Event]:
    """Return the events that lead from one state to another: what changed, then what is gone."""
    events: list[Event] = [
        ResourceSet(resource=resource)
        for key, resource in new.resources.items()
        if old.resources.get(key) != resource
    ]
    events += [ResourceRemoved(key=key) for key in old.resources if key not in new.resources]
    return events[::-1] if backwards else events


def walk(states: list[State], *, backwards: bool = False) -> list[Step]:
    """Return the steps through the states, from nothing."""
    return [
        (events_between(old, new, backwards=backwards), new)
        for old, new in pairwise([EMPTY, *states])
    ]


def expand(states: list[State]) -> Iterator[tuple[str, list[Step]]]:
    """Yield the walks made of a list of states, each with its name."""
    yield "as given", walk(states)
    yield "states reversed", walk(states[::-1])
    yield "keys reversed", walk(states, backwards=True)
    yield "empties between", walk(list(chain.from_iterable((s, EMPTY) for s in states)))
    for state in states:
        yield f"alone: {state.name}", walk([state])
    steps = walk(states)
    yield "squashed", [([event for events, _ in steps for event in events], states[-1])]
    yield (
        "one event a flush",
        [step for old, new in pairwise([EMPTY, *states]) for step in _one_by_one(old, new)],
    )


def _one_by_one(old: State, new: State) -> Iterator[Step]:
    resources = dict(old.resources)
    for event in events_between(old, new)[:40]:
        if isinstance(event, ResourceSet):
            resources[event.key] = event.resource
        else:
            del resources[event.key]
        yield [event], State(f"towards {new.name}", resources)
    yield events_between(State("", resources), new), new
